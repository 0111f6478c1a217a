"""What was dropped is told from looks at two servers that are never of the same moment."""

from __future__ import annotations

from iotplatform.app.letters import DroppedLetters


def test_what_is_gone_and_was_not_replayed_was_dropped() -> None:
    letters = DroppedLetters()
    letters.saw_removed({"a": 10, "b": 2})
    assert letters.count({"a": 4}) == 8


def test_a_replay_that_is_written_down_and_not_seen_yet_takes_nothing_back() -> None:
    letters = DroppedLetters()
    letters.saw_removed({"a": 5})
    assert letters.count({}) == 5
    assert letters.count({"a": 3}) == 5
    letters.saw_removed({"a": 8})
    assert letters.count({"a": 3}) == 5
    letters.saw_removed({"a": 9})
    assert letters.count({"a": 3}) == 6


def test_an_organization_that_is_made_anew_begins_with_none() -> None:
    letters = DroppedLetters()
    letters.saw_removed({"a": 5, "b": 1})
    assert letters.count({}) == 6
    letters.saw_removed({"b": 1})
    assert letters.count({}) == 1
    letters.saw_removed({"a": 2, "b": 1})
    assert letters.count({}) == 3

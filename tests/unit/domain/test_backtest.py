"""A backtest finds what the engine finds, however its readings are cut, and keeps no more than it was told to."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from iotplatform.domain.backtest import Backtest, FoundEpisode
from iotplatform.domain.conditions import Condition, MOfN, NoData, Rate, Threshold
from iotplatform.domain.evaluation import INITIAL, Watch, evaluate
from iotplatform.domain.rule import Rule

SECOND = 1_000_000
START = 1_700_000_000 * SECOND
HOT = Threshold(">", 80.0)
SERIES = ("oven", "temp1")


def rule_of(condition: Condition = HOT, **options: Any) -> Rule:
    return Rule("r", "o", "R", "temp*", condition, **options)


def points_of(*values: float, step_s: int = 1) -> list[tuple[int, float]]:
    return [(START + number * step_s * SECOND, value) for number, value in enumerate(values)]


def test_an_episode_with_its_readings() -> None:
    points = points_of(1, 81, 82, 83, 84, 70, 70)
    backtest = Backtest(rule_of(clear_after=2), 10, START + 100 * SECOND)
    backtest.feed(SERIES, points)
    [found] = backtest.finish()
    assert found == FoundEpisode(*SERIES, points[3][0], points[1][0], points[6][0], 83.0, tuple(points[1:4]))
    assert (backtest.series, backtest.readings, backtest.episodes) == (1, 7, 1)


def test_one_that_does_not_end_and_a_series_that_starts_anew() -> None:
    backtest = Backtest(rule_of(raise_after=2), 10, START + 100 * SECOND)
    backtest.feed(("a", "temp"), points_of(90, 90, 90))
    # One breach of the other series is not the third in a row of the first one.
    backtest.feed(("b", "temp"), points_of(90))
    found = backtest.finish()
    assert [(episode.device_id, episode.cleared_at) for episode in found] == [("a", None)]
    assert backtest.series == 2


def test_a_rule_that_is_disabled_is_tried_all_the_same() -> None:
    backtest = Backtest(rule_of(enabled=False, raise_after=1), 10, START)
    backtest.feed(SERIES, points_of(90))
    assert len(backtest.finish()) == 1


@pytest.mark.parametrize(
    ("ends_after_s", "expected"),
    [(99, [(61, 1, 70)]), (131, [(61, 1, 70), (131, 71, None)])],
)
def test_silence_in_between_and_up_to_the_end(ends_after_s: int, expected: list[tuple[int, int, int | None]]) -> None:
    backtest = Backtest(rule_of(NoData(60.0)), 10, START + ends_after_s * SECOND)
    backtest.feed(SERIES, [(START + at * SECOND, 0.0) for at in (0, 1, 70, 71)])
    found = backtest.finish()

    def after_s(at: int | None) -> int | None:
        return None if at is None else (at - START) // SECOND

    assert [
        (after_s(one.raised_at), after_s(one.first_breach_at), after_s(one.cleared_at)) for one in found
    ] == expected
    assert all(one.trigger_value == 60.0 for one in found)


def test_the_first_ones_are_kept_and_all_are_counted() -> None:
    backtest = Backtest(rule_of(raise_after=1), 3, START)
    for device in ("c", "b", "a"):
        backtest.feed((device, "temp"), points_of(*[90, 1] * 500, step_s={"a": 3, "b": 2, "c": 1}[device]))
    found = backtest.finish()
    assert backtest.episodes == 1_500
    assert [(episode.device_id, episode.raised_at - START) for episode in found] == [
        ("a", 0),
        ("b", 0),
        ("c", 0),
    ]


conditions = st.sampled_from(
    [
        Threshold(">", 5.0),
        Threshold(">", 5.0, clear_value=3.0),
        Threshold("inside", low=2.0, high=4.0),
        Rate(">", 1.0),
        MOfN(2, 4, ">", 5.0),
    ]
)


@given(
    conditions,
    st.integers(1, 3),
    st.lists(st.tuples(st.integers(0, 50), st.integers(0, 9).map(float)), max_size=60),
    st.data(),
)
def test_it_agrees_with_the_engine_however_it_is_cut(
    condition: Condition, many: int, steps: list[tuple[int, float]], data: st.DataObject
) -> None:
    counts = 1 if isinstance(condition, MOfN) else many
    rule = rule_of(condition, raise_after=counts, clear_after=many, max_gap_s=20.0)
    points = [(START + at * SECOND, value) for at, value in steps]
    watch, state = Watch(rule), INITIAL
    expected = []
    for at, value in points:
        state, step = evaluate(watch, state, value, at, at, lambda _: "x")
        if step in {"raised", "cleared"}:
            expected.append((step, at))
    backtest = Backtest(rule, 1_000, START)
    while points:
        cut = data.draw(st.integers(1, len(points)))
        backtest.feed(SERIES, points[:cut])
        points = points[cut:]
    backtest.finish()
    found = []
    fed = Backtest(rule, 1_000, START)
    fed.feed(SERIES, [(START + at * SECOND, value) for at, value in steps])
    assert fed.finish() == backtest.finish()
    for episode in fed.finish():
        found.append(("raised", episode.raised_at))
        if episode.cleared_at is not None:
            found.append(("cleared", episode.cleared_at))
    # Out of order readings can make two episodes raise at one time: the multiset is the same in any case.
    assert sorted(found) == sorted(expected)

"""Every cell of the table in docs/rules.md is made, and comes out as it stands there."""

from __future__ import annotations

from pathlib import Path

import pytest

from iotplatform.domain.evaluation import INITIAL, Watch, evaluate
from iotplatform.domain.rule import Rule, Threshold

S = 1_000_000
GUIDE = Path(__file__).parents[3] / "docs" / "rules.md"
STATES = ["quiet", "counting", "active", "recovering"]

# Of a rule that raises above 80 and clears at 75 and below: value, seconds since the reading before, counts wanted.
READINGS = {
    "a breach, not enough": (90.0, 1, {"raise_after": 9}),
    "the breach that is enough": (90.0, 1, {}),
    "good, not enough": (70.0, 1, {"clear_after": 9}),
    "the good one that is enough": (70.0, 1, {}),
    "neither": (78.0, 1, {}),
    "a breach after a gap": (90.0, 60, {"raise_after": 2}),
    "good after a gap, not enough": (70.0, 60, {"clear_after": 2}),
    "older than the newest, ignored": (90.0, -1, {"late": "ignore"}),
}


def table():
    lines = (
        GUIDE.read_text().split("<!-- states: quiet counting active recovering -->\n")[1].split("\n\n")[0].splitlines()
    )
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    assert rows[0] == ["the reading", *STATES]
    return {row[0]: dict(zip(STATES, row[1:], strict=True)) for row in rows[2:]}


def rule(**changes):
    return Rule("r", "o", "R", "*", Threshold(">", 80.0, clear_value=75.0), max_gap_s=10.0, **changes)


def in_state(name, changes):
    """A series in that state for a rule with these counts, and the time of its last reading."""
    # With one breach or good reading counted, the next one is enough when two are wanted.
    wanted = {"raise_after": 2, "clear_after": 2} | changes
    if name == "quiet" and not changes:
        wanted = {"raise_after": 1, "clear_after": 2}
    before = {"quiet": [70.0], "counting": [90.0], "active": [90.0] * wanted["raise_after"]}
    before["recovering"] = [*before["active"], 70.0]
    if name == "active" and not changes:
        wanted["clear_after"] = 1
    watch, state, at = Watch(rule(**wanted)), INITIAL, 0
    for value in before[name]:
        at += S
        state, _ = evaluate(watch, state, value, at, at, lambda _: "alarm")
    assert name_of(state) == name
    return watch, state, at


def name_of(state):
    if state.alarm_id is None:
        return "counting" if state.streak else "quiet"
    return "recovering" if state.good else "active"


def test_the_table_has_every_kind_of_reading():
    assert table().keys() == READINGS.keys()


@pytest.mark.parametrize("state_name", STATES)
@pytest.mark.parametrize("kind", READINGS)
def test_a_cell(kind, state_name):
    value, after_s, changes = READINGS[kind]
    watch, state, at = in_state(state_name, changes)
    after, step = evaluate(watch, state, value, at + after_s * S, at, lambda _: "alarm")
    transition = f", {step}" if step in {"raised", "cleared"} else ""
    assert f"{name_of(after)}{transition}" == table()[kind][state_name]

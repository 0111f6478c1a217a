"""Why a rule is raised or isn't: what is said follows from what the engine remembers."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from iotplatform.domain.conditions import Condition, MOfN, NoData, Rate, Threshold
from iotplatform.domain.evaluation import INITIAL, RuleState, Watch, elapse, evaluate
from iotplatform.domain.explanation import SeenReading, condition_of, explain, judge, reason_not_to_look
from iotplatform.domain.reading import Value
from iotplatform.domain.rule import Devices, Rule

SECOND = 1_000_000
START = 1_700_000_000 * SECOND
HOT = Threshold(">", 80.0)


def rule_of(condition: Condition = HOT, **options: Any) -> Rule:
    return Rule("r", "o", "R", "temp*", condition, **options)


def told(rule: Rule, values: list[Value], *, step_s: int = 10) -> tuple[str, str]:
    """The state and the words after these readings."""
    watch, state = Watch(rule), INITIAL
    seen = [SeenReading(START + number * step_s * SECOND, value, number) for number, value in enumerate(values)]
    for reading in seen:
        if not isinstance(reading.value, str) or watch.after_us:
            value = 0.0 if isinstance(reading.value, str) else float(reading.value)
            state, _ = evaluate(watch, state, value, reading.at, reading.at, lambda _: "alarm")
    return condition_of(rule, state), explain(rule, state, judge(rule, seen))


@pytest.mark.parametrize(
    ("rule", "values", "state", "words"),
    [
        (rule_of(), [], "quiet", ["no reading of this series has been evaluated"]),
        (rule_of(), [70], "quiet", ["the last reading, 70 of 2023-11-14T22:13:20", "is no breach (> 80)"]),
        (rule_of(), [90, "x"], "counting", ["1 breach (> 80) since 2023-11-14T22:13:20", "it takes 3"]),
        (rule_of(), ["x"], "quiet", ["is a text"]),
        (rule_of(), [90, 91], "counting", ["2 breaches in a row", "it takes 3"]),
        (rule_of(), [90, 91, 92], "active", ["by the reading 92", "first breach at 2023-11-14T22:13:20", "not > 80"]),
        (rule_of(raise_after=1), [90], "active", ["Raised by the reading 90 of", "A good reading clears it"]),
        (
            rule_of(Threshold(">", 80.0, clear_value=75.0), clear_after=2),
            [90, 91, 92, 70],
            "recovering",
            ["2 good readings in a row clear it, 1 so far", "not > 75"],
        ),
        (rule_of(latched=True), [90, 91, 92, 1], "active", ["only a hand clears it"]),
        (rule_of(for_s=60.0, max_gap_s=60.0), [90, 91, 92], "counting", ["20 s so far", "must span 60 s"]),
        (rule_of(MOfN(3, 5, ">", 80.0)), [90, 1, 90], "counting", ["of the last 5 readings 2 breached", "it takes 3"]),
        (rule_of(Rate(">", 5.0)), [0, 10], "quiet", ["is no breach (> 5 per second)"]),
        (rule_of(Rate(">", 0.5)), [0, 10], "counting", ["1 breach"]),
        (rule_of(NoData(60.0)), [1], "quiet", ["arrived at 2023-11-14T22:13:20", "silence until 2023-11-14T22:14:20"]),
        (rule_of(NoData(60.0)), [], "quiet", ["nothing of this series has arrived"]),
    ],
)  # fmt: skip
def test_words(rule: Rule, values: list[Value], state: str, words: list[str]) -> None:
    found, text = told(rule, values)
    assert found == state
    assert text.startswith("Raised" if state in {"active", "recovering"} else "Not raised: ")
    assert [part for part in words if part not in text] == []


def test_silence() -> None:
    rule = rule_of(NoData(60.0), clear_after=2)
    watch = Watch(rule)
    state, _ = evaluate(watch, INITIAL, 1.0, START, START, lambda _: "alarm")
    state, step = elapse(watch, state, START + 61 * SECOND, 0, lambda _: "alarm")
    assert (step, condition_of(rule, state)) == ("raised", "active")
    text = explain(rule, state, [])
    assert "no data for 60 s" in text
    assert "arrived at 2023-11-14T22:13:20" in text
    assert "2 good readings in a row clear it, 0 so far; any reading is good" in text


def test_what_was_remembered_by_the_rule_of_before() -> None:
    before = rule_of()
    state, _ = evaluate(Watch(before), INITIAL, 90.0, START, START, lambda _: "alarm")
    now = msgspec.structs.replace(before, condition=Threshold(">", 70.0))
    assert condition_of(now, state) == "quiet"
    assert "just been changed" in explain(now, state, [])
    # From the time before rules had marks.
    assert condition_of(now, RuleState(1, 0, None, ((START, 90.0),))) == "counting"


@pytest.mark.parametrize(
    ("options", "sensor", "tags", "words"),
    [
        ({}, "temp1", (), None),
        ({"enabled": False}, "temp1", (), "disabled"),
        ({}, "humidity", (), "'temp*'"),
        ({"devices": Devices(ids=("d",))}, "temp1", (), None),
        ({"devices": Devices(ids=("e",))}, "temp1", (), "not among them"),
        ({"devices": Devices(tags=("a", "b"))}, "temp1", ("b", "a"), None),
        ({"devices": Devices(tags=("a", "b", "c"))}, "temp1", ("b",), "lacks 'a', 'c'"),
    ],
)
def test_why_it_does_not_look(options: dict[str, Any], sensor: str, tags: tuple[str, ...], words: str | None) -> None:
    reason = reason_not_to_look(rule_of(**options), "d", sensor, tags)
    assert (reason is None) if words is None else words in str(reason)


def test_verdicts() -> None:
    def verdicts(rule: Rule, *readings: tuple[int, Value]) -> list[str]:
        seen = [SeenReading(START + at * SECOND, value, number) for number, (at, value) in enumerate(readings)]
        return [judged.verdict for judged in judge(rule, seen)]

    hysteresis = rule_of(Threshold(">", 80.0, clear_value=70.0))
    found = verdicts(hysteresis, (0, 81), (1, 75), (2, 70), (3, "x"), (4, True))
    assert found == ["breach", "neither", "good", "text", "good"]
    assert verdicts(rule_of(late="ignore"), (5, 90), (1, 90), (6, 1)) == ["breach", "late", "good"]
    assert verdicts(rule_of(Rate(">", 1.0)), (0, 0), (1, 5), (2, "x"), (3, 5)) == ["good", "breach", "text", "good"]
    assert verdicts(rule_of(NoData(5.0)), (0, "x"), (1, 3)) == ["good", "good"]


conditions = st.sampled_from(
    [HOT, Threshold("inside", low=1, high=50), Rate(">", 1.0), MOfN(2, 4, ">", 80.0), NoData(15.0)]
)


@given(conditions, st.integers(1, 4), st.booleans(), st.lists(st.integers(0, 100).map(float), max_size=12))
def test_something_is_said_of_every_state(condition: Condition, count: int, latched: bool, values: list[float]) -> None:
    counted = 1 if isinstance(condition, MOfN | NoData) else count
    rule = rule_of(condition, raise_after=counted, clear_after=count, latched=latched)
    state, text = told(rule, list(values))
    assert text.startswith("Raised") == (state in {"active", "recovering"})
    assert text.endswith(".")

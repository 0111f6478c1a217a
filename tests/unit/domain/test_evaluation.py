"""The alarm engine against a model written without looking at it, and against the promises of the contract."""

from __future__ import annotations

import itertools

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from iotplatform.domain.conditions import MOfN, NoData, Rate
from iotplatform.domain.evaluation import (
    INITIAL,
    MAX_EVIDENCE,
    RuleState,
    Watch,
    cleared_by_hand,
    elapse,
    evaluate,
    evaluate_many,
)
from iotplatform.domain.rule import Rule, Threshold
from tests.support.alarm_model import Hand, Seen, model
from tests.support.alarm_strategies import SIMPLE, S, readings, rules


def rule(operator=">", threshold=80.0, **changes):
    return Rule("r1", "orgA", "R", "*", Threshold(operator, threshold), **changes)


def run(rule, events, state=INITIAL, first=0):
    """The transitions, each with the number of its event, and the state at the end."""
    watch, found = Watch(rule), []
    for number, event in enumerate(events, first):
        if isinstance(event, Hand):
            if state.alarm_id is not None:
                state = cleared_by_hand(state)
                found.append(("by hand", number))
            continue
        state, step = elapse(watch, state, event.arrived_at, 0, lambda _, place=number: f"silence-{place}")
        if step:
            found.append(("silent", number))
        state, step = evaluate(
            watch, state, event.value, event.at, event.arrived_at, lambda _, place=number: f"alarm-{place}"
        )
        if step in {"raised", "cleared"}:
            found.append((step, number))
    return found, state


events = st.builds(
    lambda seen, hands: [
        event for index, one in enumerate(seen) for event in ([Hand(), one] if index in hands else [one])
    ],
    readings(),
    st.sets(st.integers(0, 40), max_size=4),
)


@settings(max_examples=800)
@given(rules(), events)
def test_the_engine_agrees_with_the_model(rule, events):
    assert run(rule, events)[0] == model(rule, events)


@settings(max_examples=300)
@given(rules(), events, st.data())
def test_however_the_input_is_split_the_transitions_are_the_same(rule, events, data):
    """States are stored between blocks, and come back from bytes."""
    cuts = sorted(data.draw(st.lists(st.integers(0, len(events)), max_size=6)))
    found, state = [], INITIAL
    for start, end in itertools.pairwise([0, *cuts, len(events)]):
        more, state = run(rule, events[start:end], state, first=start)
        found += more
        state = msgspec.msgpack.decode(msgspec.msgpack.encode(state), type=RuleState)
    whole, last = run(rule, events)
    assert found == whole
    assert state == last


@settings(max_examples=300)
@given(rules(), events)
def test_raised_and_cleared_alternate_and_one_alarm_is_active_at_most(rule, events):
    found, state = run(rule, events)
    kinds = ["raised" if step in {"raised", "silent"} else "cleared" for step, _ in found]
    assert kinds == ["raised" if place % 2 == 0 else "cleared" for place in range(len(kinds))]
    assert (state.alarm_id is not None) == (len(kinds) % 2 == 1)


@settings(max_examples=300)
@given(rules(), readings())
def test_what_did_not_change_is_the_same_object(rule, readings):
    watch, state = Watch(rule), INITIAL
    for number, seen in enumerate(readings):
        after, step = evaluate(
            watch, state, seen.value, seen.at, seen.arrived_at, lambda _, place=number: f"alarm-{place}"
        )
        assert (after is state) == (after == state)
        if after is state:
            assert step == ""
        if after == INITIAL:
            assert after is INITIAL
        assert after is INITIAL or after.mark == rule.mark
        state = after


@settings(max_examples=300)
@given(rules(), readings())
def test_many_at_once_are_the_same_as_one_by_one(rule, readings):
    """As over history, where each reading has arrived at its own time."""
    seen = [Seen(one.value, one.at, one.at) for one in sorted(readings, key=lambda one: one.at)]
    expected, last = run(rule, seen)
    state, found = evaluate_many(Watch(rule), INITIAL, [(one.at, one.value) for one in seen], lambda _: "id")
    assert ["raised" if step == "silent" else step for step, _ in expected] == [step for step, _, _ in found]
    times = [point[0] for _, point, _ in found]
    assert [seen[number].at for step, number in expected if step != "silent"] == [
        at for at, (step, _) in zip(times, expected, strict=True) if step != "silent"
    ]
    assert msgspec.structs.replace(state, alarm_id=None) == msgspec.structs.replace(last, alarm_id=None)


@given(rules(), readings())
def test_the_evidence_is_what_raised_it(rule, readings):
    watch, state = Watch(rule), INITIAL
    for number, seen in enumerate(readings):
        state, step = evaluate(watch, state, seen.value, seen.at, seen.arrived_at, lambda _: "a")
        if step == "raised":
            assert state.evidence[-1] == (seen.at, seen.value)
            known = [(one.at, one.value) for one in readings[: number + 1]]
            assert [point for point in state.evidence if point not in known] == []
            if isinstance(rule.condition, MOfN):
                assert len(state.evidence) == rule.condition.m
            else:
                assert len(state.evidence) >= rule.raise_after
            if rule.for_s is not None:
                assert state.evidence[-1][0] - state.evidence[0][0] >= rule.for_s * S
        assert len(state.evidence) <= MAX_EVIDENCE


@pytest.mark.parametrize("raise_after", [MAX_EVIDENCE, MAX_EVIDENCE + 1, 1_000])
def test_the_evidence_of_a_long_streak_keeps_its_first_and_its_last(raise_after):
    breaches = [Seen(100.0 + number, 1_000 + number) for number in range(raise_after)]
    found, state = run(rule(raise_after=raise_after), breaches)
    assert found == [("raised", raise_after - 1)]
    assert len(state.evidence) == MAX_EVIDENCE
    assert state.evidence[0] == (1_000, 100.0)
    last = [(1_000 + number, 100.0 + number) for number in range(raise_after)][-(MAX_EVIDENCE - 1) :]
    assert list(state.evidence[1:]) == last


def test_a_long_duration_counts_from_the_first_breach_of_all():
    long = rule(raise_after=1, for_s=500.0, max_gap_s=2.0)
    found, state = run(long, [Seen(90.0, number * S) for number in range(600)])
    assert found == [("raised", 500)]
    assert (state.evidence[0][0], len(state.evidence)) == (0, MAX_EVIDENCE)


def test_a_silent_device_never_fires_by_duration():
    found, _ = run(rule(raise_after=1, for_s=60.0, max_gap_s=30.0), [Seen(90.0, 0), Seen(90.0, 3_600 * S)])
    assert found == []


def test_the_walk_through():
    """One breach at 85, three at 90: the third in stream order raises, the fourth adds nothing; 70 clears."""
    watch, steps, state = Watch(rule(raise_after=3)), [], INITIAL
    for index, value in enumerate([85.0, 90.0, 90.0, 90.0, 70.0, 90.0, 90.0, 90.0]):
        state, step = evaluate(watch, state, value, 1_000 - index, 0, lambda _, place=index: f"alarm-{place}")
        steps.append(step)
    assert steps == ["breach", "breach", "raised", "", "cleared", "breach", "breach", "raised"]
    assert state.alarm_id == "alarm-7"


def seen(*values, step_s=1):
    return [Seen(float(value), number * step_s * S, number * step_s * S) for number, value in enumerate(values)]


@pytest.mark.parametrize(
    ("changes", "values", "expected"),
    [
        ({"raise_after": 1, "clear_after": 3}, [90, 70, 70, 90, 70, 70, 70], [("raised", 0), ("cleared", 6)]),
        (
            {"condition": Threshold(">", 80.0, clear_value=75.0), "raise_after": 2},
            [81, 78, 81, 81, 78, 75.5, 75],
            [("raised", 3), ("cleared", 6)],
        ),
        (
            {"condition": Threshold("outside", low=2.0, high=8.0), "raise_after": 1},
            [2, 8, 9, 8],
            [("raised", 2), ("cleared", 3)],
        ),
        (
            {"condition": Threshold("inside", low=2.0, high=8.0), "raise_after": 1},
            [9, 2, 1],
            [("raised", 1), ("cleared", 2)],
        ),
        ({"condition": Rate(">", 5.0), "raise_after": 2}, [0, 6, 12, 13, 20], [("raised", 2), ("cleared", 3)]),
        ({"condition": MOfN(3, 5, ">", 80.0)}, [90, 70, 90, 70, 90, 70], [("raised", 4), ("cleared", 5)]),
        # The first is six readings back by the third; and a clear begins a new window.
        ({"condition": MOfN(3, 5, ">", 80.0)}, [90, 70, 70, 70, 90, 90], []),
        ({"condition": MOfN(2, 3, ">", 80.0)}, [90, 90, 70, 90, 70, 70], [("raised", 1), ("cleared", 2)]),
        ({"raise_after": 1, "latched": True}, [90, 70, 70, 70], [("raised", 0)]),
    ],
)
def test_examples(changes, values, expected):
    plain = {"id": "r1", "organization_id": "o", "name": "R", "sensor": "*", "condition": Threshold(">", 80.0)}
    assert run(Rule(**(plain | changes)), seen(*values))[0] == expected


def test_readings_older_than_the_newest_count_for_nothing_when_asked_to():
    late = [Seen(90.0, 10), Seen(70.0, 5), Seen(90.0, 10), Seen(90.0, 11)]
    assert run(rule(late="ignore"), late)[0] == [("raised", 3)]
    assert run(rule(), late)[0] == []


def test_a_latched_alarm_is_cleared_by_a_hand_alone_and_then_counts_anew():
    latched = rule(raise_after=2, latched=True)
    found, _ = run(latched, [*seen(90, 90, 70, 70), Hand(), *seen(90, 90)])
    assert found == [("raised", 1), ("by hand", 4), ("raised", 6)]


def test_a_silence_that_the_platform_could_not_have_heard_is_none():
    watch = Watch(Rule("r", "o", "R", "*", NoData(10.0)))
    state, _ = evaluate(watch, INITIAL, 1.0, 0, 100 * S, lambda _: "a")
    assert elapse(watch, state, 109 * S, 0, lambda _: "a") == (state, "")
    assert elapse(watch, state, 110 * S, 0, lambda _: "a")[1] == "raised"
    assert elapse(watch, state, 119 * S, 109 * S + 1, lambda _: "a") == (state, "")
    assert elapse(watch, state, 120 * S, 110 * S, lambda _: "a")[1] == "raised"


def test_a_silent_series_that_a_hand_has_cleared_has_to_be_heard_again():
    watch = Watch(Rule("r", "o", "R", "*", NoData(10.0)))
    state, _ = evaluate(watch, INITIAL, 1.0, 0, 100 * S, lambda _: "a")
    state, _ = elapse(watch, state, 110 * S, 0, lambda _: "a")
    assert elapse(watch, cleared_by_hand(state), 10_000 * S, 0, lambda _: "a")[1] == ""


def test_a_state_of_before_the_marks_counts_on():
    old = msgspec.msgpack.decode(msgspec.msgpack.encode([2, 0, None, [[0, 90.0], [1, 91.0]]]), type=RuleState)
    state, step = evaluate(Watch(rule()), old, 92.0, 2, 0, lambda _: "a")
    assert (step, state.evidence) == ("raised", ((0, 90.0), (1, 91.0), (2, 92.0)))


@pytest.mark.parametrize("value", [float("inf"), float("-inf"), 1e308, 5e-324, -0.0])
@pytest.mark.parametrize("operator", SIMPLE)
def test_the_ends_of_the_number_line(operator, value):
    found, _ = run(rule(operator, raise_after=1), [Seen(value, 0)])
    assert found == model(rule(operator, raise_after=1), [Seen(value, 0)])

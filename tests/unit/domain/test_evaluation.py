"""The alarm engine against a model written without looking at it, and against the promises of the contract."""

from __future__ import annotations

import itertools

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from iotplatform.domain.evaluation import INITIAL, MAX_EVIDENCE, RuleState, evaluate
from iotplatform.domain.rule import Rule, Threshold

OPERATORS = [">", ">=", "<", "<=", "==", "!="]

# Few different values, so that runs of breaches and of good readings are common.
values = st.lists(st.sampled_from([79.0, 80.0, 81.0, -80.0, 80.00000000001]), max_size=60)
rules = st.builds(
    Rule,
    id=st.just("r1"),
    organization_id=st.just("orgA"),
    name=st.just("R"),
    sensor=st.just("*"),
    condition=st.builds(Threshold, st.sampled_from(OPERATORS), st.sampled_from([79.0, 80.0, 81.0])),
    raise_after=st.integers(1, 5),
    clear_after=st.integers(1, 4),
)


def rule(operator=">", threshold=80.0, **counts):
    return Rule("r1", "orgA", "R", "*", Threshold(operator, threshold), **counts)


def run(rule, values, state=INITIAL, first=0):
    """The transitions, each with the index of its reading, and the state at the end."""
    found = []
    for index, value in enumerate(values, first):
        state, step = evaluate(rule, state, value, at=1_000 + index, alarm_id=f"alarm-{index}")
        if step in {"raised", "cleared"}:
            found.append((step, index))
    return found, state


def model(rule, values):
    """What the contract says, over the whole input at once: no state, no steps, only runs of equal answers."""
    threshold = rule.condition.value
    meets = {
        ">": lambda value: value > threshold,
        ">=": lambda value: not value < threshold,
        "<": lambda value: value < threshold,
        "<=": lambda value: not value > threshold,
        "==": lambda value: value == threshold,
        "!=": lambda value: value != threshold,
    }[rule.condition.operator]
    answers = "".join("B" if meets(value) else "g" for value in values)
    found, place = [], 0
    for step, wanted in itertools.cycle([("raised", "B" * rule.raise_after), ("cleared", "g" * rule.clear_after)]):
        # A run that is long enough can only begin behind the last transition: counts start anew there.
        start = answers.find(wanted, place)
        if start < 0:
            return found
        place = start + len(wanted)
        found.append((step, place - 1))
    raise AssertionError


@settings(max_examples=1_000)
@given(rules, values)
def test_the_engine_agrees_with_the_model(rule, values):
    assert run(rule, values)[0] == model(rule, values)


@given(rules, values, st.data())
def test_however_the_input_is_split_the_transitions_are_the_same(rule, values, data):
    """States are stored between blocks, and come back from bytes."""
    cuts = sorted(data.draw(st.lists(st.integers(0, len(values)), max_size=6)))
    found, state = [], INITIAL
    for start, end in itertools.pairwise([0, *cuts, len(values)]):
        more, state = run(rule, values[start:end], state, first=start)
        found += more
        state = msgspec.msgpack.decode(msgspec.msgpack.encode(state), type=RuleState)
    whole, last = run(rule, values)
    assert found == whole
    assert state == last


@given(rules, values)
def test_raised_and_cleared_alternate_and_one_alarm_is_active_at_most(rule, values):
    active, raised_ids, state = None, [], INITIAL
    for index, value in enumerate(values):
        before = state
        state, step = evaluate(rule, state, value, at=index, alarm_id=f"alarm-{index}")
        if step == "raised":
            assert active is None
            active = state.alarm_id
            raised_ids.append(active)
        elif step == "cleared":
            assert before.alarm_id == active is not None
            active = None
        assert state.alarm_id == active
    assert len(set(raised_ids)) == len(raised_ids)


@given(st.integers(1, 20), st.lists(st.booleans(), max_size=100))
def test_raised_exactly_at_the_nth_breach_in_a_row(raise_after, breaches):
    until_raised = [90.0 if breach else 70.0 for breach in breaches]
    found, _ = run(rule(raise_after=raise_after), until_raised)
    in_a_row = 0
    expected = None
    for index, breach in enumerate(breaches):
        in_a_row = in_a_row + 1 if breach else 0
        if in_a_row == raise_after:
            expected = ("raised", index)
            break
    assert (found[0] if found else None) == expected


@given(rules, values)
def test_what_did_not_change_is_the_same_object(rule, values):
    state = INITIAL
    for index, value in enumerate(values):
        after, step = evaluate(rule, state, value, at=index, alarm_id=f"alarm-{index}")
        assert (after is state) == (after == state)
        if after is state:
            assert step == ""
        if after == INITIAL:
            assert after is INITIAL
        state = after


@given(rules, values)
def test_the_evidence_is_the_streak_that_raised(rule, values):
    state = INITIAL
    for index, value in enumerate(values):
        state, step = evaluate(rule, state, value, at=1_000 + index, alarm_id="a")
        if step == "raised":
            first = index - rule.raise_after + 1
            expected = [(1_000 + place, values[place]) for place in range(first, index + 1)]
            assert list(state.evidence) == expected
        assert len(state.evidence) <= MAX_EVIDENCE


@pytest.mark.parametrize("raise_after", [MAX_EVIDENCE, MAX_EVIDENCE + 1, 1_000])
def test_the_evidence_of_a_long_streak_keeps_its_first_and_its_last(raise_after):
    breaches = [100.0 + number for number in range(raise_after)]
    found, state = run(rule(raise_after=raise_after), breaches)
    assert found == [("raised", raise_after - 1)]
    assert len(state.evidence) == MAX_EVIDENCE
    assert state.evidence[0] == (1_000, 100.0)
    last = [(1_000 + number, 100.0 + number) for number in range(raise_after)][-(MAX_EVIDENCE - 1) :]
    assert list(state.evidence[1:]) == last


def test_the_walk_through():
    """One breach at 85, three at 90: the third in stream order raises, the fourth adds nothing; 70 clears."""
    steps, state = [], INITIAL
    for index, value in enumerate([85.0, 90.0, 90.0, 90.0, 70.0, 90.0, 90.0, 90.0]):
        state, step = evaluate(rule(raise_after=3), state, value, at=index, alarm_id=f"alarm-{index}")
        steps.append(step)
    assert steps == ["breach", "breach", "raised", "", "cleared", "breach", "breach", "raised"]
    assert state.alarm_id == "alarm-7"


def test_a_breach_between_good_readings_starts_their_count_anew():
    found, _ = run(rule(raise_after=1, clear_after=3), [90, 70, 70, 90, 70, 70, 70])
    assert found == [("raised", 0), ("cleared", 6)]


@pytest.mark.parametrize("value", [float("inf"), float("-inf"), 1e308, 5e-324, -0.0])
@pytest.mark.parametrize("operator", OPERATORS)
def test_the_ends_of_the_number_line(operator, value):
    found, _ = run(rule(operator, raise_after=1), [value])
    assert found == model(rule(operator, raise_after=1), [value])

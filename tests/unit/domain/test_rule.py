"""Rules: which sensors they look at, and which values meet them."""

from __future__ import annotations

import msgspec
import pytest

from iotplatform.domain.rule import Rule, Threshold


def rule(sensor="temp*", **changes):
    return Rule("r1", "orgA", "Too hot", sensor, Threshold(">", 80.0), **changes)


@pytest.mark.parametrize(
    ("glob", "matching", "others"),
    [
        ("temp*", ["temp", "temp1", "temperature", "temp.x/y", "temp*"], ["Temp1", "xtemp", "", "tem"]),
        ("*", ["a", "temp1", "a.b"], []),
        ("temp?", ["temp1", "temp?"], ["temp", "temp12"]),
        ("temp[12]", ["temp1", "temp2"], ["temp3", "temp[12]", "temp12"]),
        ("temp[!12]", ["temp3"], ["temp1", "temp"]),
        ("temp1", ["temp1"], ["temp10", "atemp1"]),
        ("a.b", ["a.b"], ["axb"]),
        ("a+(b)", ["a+(b)"], ["aab"]),
        ("*.usage_*", ["cpu.usage_idle", "cpu.usage_user,host=a"], ["cpu.idle"]),
        ("temp[", ["temp["], ["temp"]),
        ("*°C", ["außen °C"], ["außen °F"]),
    ],
)
def test_the_glob_of_a_rule(glob, matching, others):
    assert [sensor for sensor in matching if not rule(glob).matches(sensor)] == []
    assert [sensor for sensor in others if rule(glob).matches(sensor)] == []


def test_a_disabled_rule_matches_nothing():
    assert not rule(enabled=False).matches("temp1")


def test_a_glob_made_to_be_slow_is_not():
    # Backtracking over this would take longer than the universe has.
    assert not rule("*a" * 40 + "b").matches("a" * 500)


@pytest.mark.parametrize(
    ("operator", "below", "equal", "above"),
    [
        (">", False, False, True),
        (">=", False, True, True),
        ("<", True, False, False),
        ("<=", True, True, False),
        ("==", False, True, False),
        ("!=", True, False, True),
    ],
)
def test_operators(operator, below, equal, above):
    condition = Threshold(operator, 80.0)
    assert [condition.met(value) for value in (79.9, 80.0, 80.1)] == [below, equal, above]


@pytest.mark.parametrize(
    "change",
    [
        {"condition": {"type": "threshold", "operator": "=>", "value": 1}},
        {"condition": {"type": "unknown", "operator": ">", "value": 1}},
        {"raise_after": 0},
        {"clear_after": 0},
        {"raise_after": 1_001},
        {"severity": "terrible"},
    ],
)
def test_a_rule_that_makes_no_sense_is_not_read(change):
    definition = msgspec.to_builtins(rule()) | change
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert(definition, Rule)


def test_a_rule_reads_as_it_was_written():
    made = rule(severity="critical", raise_after=5, clear_after=2, enabled=False)
    assert msgspec.convert(msgspec.to_builtins(made), Rule) == made

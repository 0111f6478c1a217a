"""Rules: which sensors they look at, and which values meet them."""

from __future__ import annotations

import msgspec
import pytest

from iotplatform.domain.conditions import MOfN, NoData, Rate
from iotplatform.domain.rule import Devices, Rule, Threshold, rule_faults


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


def test_a_definition_of_before_the_other_conditions_is_still_read():
    stored = (
        b'{"id":"default","organization_id":"orgA","name":"R","sensor":"temp*","severity":"major","enabled":true,'
        b'"condition":{"type":"threshold","operator":">","value":80.0},"raise_after":3,"clear_after":1}'
    )
    assert msgspec.json.decode(stored, type=Rule) == Rule("default", "orgA", "R", "temp*", Threshold(">", 80.0))


@pytest.mark.parametrize(
    ("condition", "raise_after", "summary"),
    [
        (Threshold(">", 80.0), 3, "> 80, 3 in a row"),
        (Threshold(">", 80.0, clear_value=75.0), 3, "> 80 (good when not > 75), 3 in a row"),
        (Threshold("outside", low=2.0, high=8.0), 3, "outside 2 to 8, 3 in a row"),
        (Rate(">", 0.5), 3, "> 0.5 per second, 3 in a row"),
        (MOfN(3, 5, ">", 80.0), 1, "> 80, 3 of 5"),
        (NoData(300.0), 1, "no data for 300 s"),
    ],
)
def test_each_condition_has_its_own_raise_after_and_words(condition, raise_after, summary):
    made = Rule("r1", "orgA", "R", "*", condition)
    assert (made.raise_after, made.summary) == (raise_after, summary)
    assert rule_faults(made) == []
    assert msgspec.json.decode(msgspec.json.encode(made), type=Rule) == made


def test_a_duration_is_part_of_the_words():
    assert rule(for_s=60.0, max_gap_s=30.0).summary == "> 80, 3 in a row, for 60 s"


NAN, INFINITE = float("nan"), float("inf")
PLAIN = {"id": "r1", "organization_id": "orgA", "name": "R", "sensor": "*", "condition": Threshold(">", 80.0)}


@pytest.mark.parametrize(
    ("changes", "fields"),
    [
        ({"id": "a b"}, ["id"]),
        ({"sensor": ""}, ["sensor"]),
        ({"sensor": "a\nb"}, ["sensor"]),
        ({"condition": Threshold(">")}, ["condition.value"]),
        ({"condition": Threshold(">", NAN)}, ["condition.value"]),
        ({"condition": Threshold(">", 80.0, low=1.0)}, ["condition.low"]),
        ({"condition": Threshold("inside", 80.0)}, ["condition.value", "condition.low", "condition.high"]),
        ({"condition": Threshold("inside", low=1.0)}, ["condition.high"]),
        ({"condition": Threshold("outside", low=2.0, high=1.0)}, ["condition.low"]),
        ({"condition": Threshold("outside", low=-INFINITE, high=1.0)}, ["condition.low"]),
        ({"condition": Threshold(">", 80.0, clear_value=81.0)}, ["condition.clear_value"]),
        ({"condition": Threshold("<=", 80.0, clear_value=79.0)}, ["condition.clear_value"]),
        ({"condition": Threshold("==", 80.0, clear_value=79.0)}, ["condition.clear_value"]),
        ({"condition": Threshold("inside", clear_value=79.0, low=1.0, high=2.0)}, ["condition.clear_value"]),
        ({"condition": Threshold(">", 80.0, clear_value=NAN)}, ["condition.clear_value"]),
        ({"condition": Rate(">", INFINITE)}, ["condition.per_s"]),
        ({"condition": MOfN(6, 5, ">", 80.0)}, ["condition.m"]),
        ({"condition": MOfN(3, 5, "inside", 80.0, high=90.0)}, ["condition.value", "condition.low"]),
        ({"condition": MOfN(3, 5, ">", 80.0), "raise_after": 3}, ["raise_after"]),
        ({"condition": MOfN(3, 5, ">", 80.0), "for_s": 3.0, "max_gap_s": 1.0}, ["for_s"]),
        ({"condition": NoData(300.0), "raise_after": 2}, ["raise_after"]),
        ({"condition": NoData(300.0), "for_s": 3.0}, ["for_s"]),
        ({"condition": NoData(300.0), "max_gap_s": 3.0, "late": "ignore"}, ["max_gap_s", "late"]),
        ({"condition": NoData(NAN)}, ["condition.after_s"]),
        ({"for_s": 60.0}, ["for_s"]),
        ({"for_s": INFINITE, "max_gap_s": 1.0}, ["for_s"]),
        ({"reminder_s": NAN}, ["reminder_s"]),
        ({"devices": Devices()}, ["devices"]),
        ({"devices": Devices(ids=("a",), tags=("b",))}, ["devices"]),
        ({"devices": Devices(ids=("a", "b c"))}, ["devices.ids[1]"]),
        ({"devices": Devices(tags=("", "b\x00"))}, ["devices.tags[0]", "devices.tags[1]"]),
    ],
)
def test_what_can_not_be_is_named_by_its_field(changes, fields):
    found = rule_faults(Rule(**(PLAIN | changes)))
    assert [field for field, _ in found] == fields
    assert all(detail for _, detail in found)


@pytest.mark.parametrize(
    "condition",
    [
        b'{"type":"threshold","operator":"=>","value":1}',
        b'{"type":"threshold","operator":">","value":1e999}',
        b'{"type":"threshold","operator":">","value":"80"}',
        b'{"type":"threshold","operator":">","valeu":80}',
        b'{"type":"rate","operator":"inside","per_s":1}',
        b'{"type":"rate","operator":">"}',
        b'{"type":"m_of_n","m":0,"n":5,"operator":">","value":80}',
        b'{"type":"m_of_n","m":3,"n":101,"operator":">","value":80}',
        b'{"type":"no_data","after_s":0}',
        b'{"type":"no_data","after_s":1e12}',
        b'{"type":"never"}',
        b"{}",
    ],
)
def test_a_condition_that_is_none_is_not_read(condition):
    text = b'{"id":"r","organization_id":"o","name":"R","sensor":"*","condition":' + condition + b"}"
    with pytest.raises(msgspec.ValidationError):
        msgspec.json.decode(text, type=Rule)


def test_devices_by_id_and_by_all_of_the_tags():
    assert rule().concerns("m", ())
    by_id, by_tag = rule(devices=Devices(ids=("m", "n"))), rule(devices=Devices(tags=("hall", "north")))
    assert [by_id.concerns(device, ("hall",)) for device in ("m", "n", "o")] == [True, True, False]
    assert by_tag.concerns("m", ("north", "x", "hall"))
    assert not by_tag.concerns("m", ("hall",))


@pytest.mark.parametrize(
    "changes",
    [
        {"condition": Threshold(">", 81.0)},
        {"sensor": "*"},
        {"devices": Devices(ids=("m",))},
        {"condition": Rate(">", 8.0)},
    ],
)
def test_another_condition_sensor_or_devices_make_another_mark(changes):
    assert msgspec.structs.replace(rule(), **changes).mark != rule().mark


def test_all_else_leaves_the_mark():
    changed = rule(severity="info", raise_after=9, clear_after=9, latched=True, late="ignore", enabled=False)
    assert changed.mark == rule().mark
    assert rule(devices=Devices(ids=("a", "b"))).mark == rule(devices=Devices(ids=("b", "a"))).mark
    # Stored with states: the same in every process and version.
    assert rule().mark == 2_278_814_475

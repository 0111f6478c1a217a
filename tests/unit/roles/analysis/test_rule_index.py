"""Which rules look at a series."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from iotplatform.domain.rule import Devices, Rule, Threshold
from iotplatform.roles.analysis import rule_index
from iotplatform.roles.analysis.rule_index import RuleIndex


def rule(rule_id, sensor, **changes):
    return Rule(rule_id, "orgA", rule_id, sensor, Threshold(">", 80.0), **changes)


def ids(index, sensor, device="m"):
    return [found.id for found in index.matching(device, sensor)]


def test_every_enabled_rule_that_matches_in_the_order_of_the_rules():
    index = RuleIndex([rule("b", "temp*"), rule("a", "*"), rule("off", "*", enabled=False), rule("c", "hum*")])
    assert ids(index, "temp1") == ["b", "a"]
    assert ids(index, "humidity") == ["a", "c"]
    assert ids(index, "door") == ["a"]


def test_a_sensor_without_rules():
    assert RuleIndex([]).matching("m", "temp1") == ()
    assert RuleIndex([rule("a", "temp*")]).matching("m", "door") == ()


def test_rules_for_devices_by_id_and_by_tag():
    index = RuleIndex(
        [
            rule("id", "*", devices=Devices(ids=("m", "n"))),
            rule("all", "temp*"),
            rule("tags", "*", devices=Devices(tags=("hot", "hall"))),
        ],
        {"m": frozenset({"hot"}), "o": frozenset({"hot", "hall", "x"})},
    )
    assert ids(index, "temp1", "m") == ["id", "all"]
    assert ids(index, "temp1", "o") == ["all", "tags"]
    assert ids(index, "door", "o") == ["tags"]
    assert ids(index, "door", "unheard of") == []


devices = st.sampled_from(["m", "n", "o"])
tags = st.sampled_from(["x", "y", "z"])
choices = st.one_of(
    st.none(),
    st.lists(devices, min_size=1, max_size=2).map(lambda found: Devices(ids=tuple(found))),
    st.lists(tags, min_size=1, max_size=2).map(lambda found: Devices(tags=tuple(found))),
)


@given(
    st.lists(st.tuples(st.sampled_from(["temp*", "*", "temp1", "t?mp1"]), choices, st.booleans()), max_size=8),
    st.dictionaries(devices, st.frozensets(tags)),
    devices,
    st.sampled_from(["temp1", "temp2", "door"]),
)
def test_as_each_rule_by_itself(drawn, tagged, device, sensor):
    rules = [
        rule(f"r{number}", glob, devices=chosen, enabled=enabled)
        for number, (glob, chosen, enabled) in enumerate(drawn)
    ]
    index = RuleIndex(rules, tagged)
    expected = [
        one.id for one in rules if one.matches(sensor) and one.concerns(device, tagged.get(device, frozenset()))
    ]
    # Twice, since it is remembered.
    assert ids(index, sensor, device) == expected
    assert ids(index, sensor, device) == expected


def test_what_is_remembered_is_bounded(monkeypatch):
    monkeypatch.setattr(rule_index, "MAX_SENSORS", 10)
    monkeypatch.setattr(rule_index, "MAX_SERIES", 10)
    index = RuleIndex([rule("a", "temp*"), rule("b", "temp*", devices=Devices(ids=("n",)))])
    for number in range(95):
        assert ids(index, f"temp{number}") == ["a"]
        assert ids(index, f"temp{number}", "n") == ["a", "b"]
        assert ids(index, f"door{number}") == []
        assert len(index._by_sensor) <= 10
        assert len(index._by_named["n"]) <= 10
    assert ids(index, "temp0") == ["a"]

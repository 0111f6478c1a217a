"""Which rules look at a sensor."""

from __future__ import annotations

from iotplatform.domain.rule import Rule, Threshold
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


def test_what_is_remembered_is_bounded(monkeypatch):
    monkeypatch.setattr(rule_index, "MAX_SENSORS", 10)
    index = RuleIndex([rule("a", "temp*")])
    for number in range(95):
        assert ids(index, f"temp{number}") == ["a"]
        assert ids(index, f"door{number}") == []
        assert len(index._by_sensor) <= 10
    assert ids(index, "temp0") == ["a"]

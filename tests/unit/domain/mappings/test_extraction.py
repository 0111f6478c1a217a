"""Mappings: their patterns, what they take out of payloads, and the ready-made ones on the messages of their fleets."""

from __future__ import annotations

import json
import re
import time

import msgspec
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from iotplatform.domain.identifiers import device_id_of, identifier_fault, sensor_fault
from iotplatform.domain.mappings.extraction import Extraction
from iotplatform.domain.mappings.mapping import Mapping, Pick, TopicRule, mapping_faults
from iotplatform.domain.mappings.patterns import WrongPattern, compile_path, compile_topic, fill
from iotplatform.domain.mappings.templates import TEMPLATES

NOW = 1_767_225_600_000_000


def extract(rules, topic, payload, gateway="gw1", gateways=()):
    mapping = Mapping("m", "M", tuple(rules), gateways=gateways)
    assert list(mapping_faults(mapping)) == []
    # As it comes back from the database.
    kept = msgspec.json.decode(msgspec.json.encode(mapping), type=Mapping)
    body = payload if isinstance(payload, bytes) else json.dumps(payload).encode()
    return Extraction([kept]).extract("orgA", gateway, topic, body, arrived_at=NOW)


def found(rules, topic, payload, **options):
    decoded = extract(rules, topic, payload, **options)
    assert decoded is not None
    assert decoded.bad == []
    return {(reading.device_id, reading.sensor): reading.value for reading in decoded.readings}


class TestTopics:
    @pytest.mark.parametrize(
        ("pattern", "topic", "caught"),
        [
            ("a/b", "a/b", {}),
            ("a/b", "a/b/c", None),
            ("a.c", "abc", None),
            ("+/b", "a/b", {}),
            ("+/b", "a/a/b", None),
            ("a/#", "a", {}),
            ("a/#", "a/b/c", {}),
            ("a/#", "ab", None),
            ("#", "a/b", {}),
            ("{device}", "x", {"device": "x"}),
            ("{device}", "x/y", None),
            ("{device*}", "x/y", {"device": "x/y"}),
            ("{device*}/set", "x/y/set", {"device": "x/y"}),
            ("t/{device}/{sensor}/#", "t/x/y/z", {"device": "x", "sensor": "y"}),
            ("{device}", "a\nb", {"device": "a\nb"}),
        ],
    )
    def test_what_they_catch(self, pattern, topic, caught):
        assert compile_topic(pattern).caught(topic.split("/")) == caught

    @pytest.mark.parametrize(
        "pattern",
        [
            "",
            "/",
            "a//b",
            "a/",
            "#/a",
            "a+",
            "a#",
            "{a",
            "{a}b",
            "{A}",
            "{a}/{a}",
            "{a*}/{b*}",
            "{}",
            "x" * 513,
            "a/" * 32 + "a",
        ],
    )
    def test_wrong_ones(self, pattern):
        with pytest.raises(WrongPattern):
            compile_topic(pattern)

    @given(st.text(st.sampled_from("a/+#{}*b"), max_size=12), st.text(st.sampled_from("ab/\n"), max_size=12))
    def test_any_pattern_is_compiled_or_wrong(self, pattern, topic):
        try:
            compiled = compile_topic(pattern)
        except WrongPattern:
            return
        compiled.caught(topic.split("/"))

    @given(
        st.lists(st.sampled_from(["a", "b", "+", "{x}", "{y}", "{z*}"]), min_size=1, max_size=6),
        st.booleans(),
        st.text(st.sampled_from("ab//\n"), max_size=14),
    )
    def test_they_catch_what_a_regular_expression_would(self, levels, open_end, topic):
        assume(all(levels.count(name) < 2 for name in ("{x}", "{y}", "{z*}")))
        several, one = r"(?P<z>.+)", {"+": "[^/]+", "{x}": "(?P<x>[^/]+)", "{y}": "(?P<y>[^/]+)"}
        expression = "/".join(several if level == "{z*}" else one.get(level, level) for level in levels)
        match = re.compile(expression + ("(?:/.*)?" if open_end else ""), re.DOTALL).fullmatch(topic)
        found = compile_topic("/".join([*levels, *(["#"] if open_end else [])])).caught(topic.split("/"))
        assert found == (None if match is None else match.groupdict())


class TestPaths:
    @pytest.mark.parametrize(
        ("pattern", "path", "caught"),
        [
            ("a.b", "a.b", ()),
            ("a.b", "axb", None),
            ("a.*", "a.b", ("b",)),
            ("a.*", "a.b.c", None),
            ("a.**", "a.b.c", ("b.c",)),
            ("**.Id", "x.y.Id", ("x.y",)),
            ("*.x.*", "a.x.b", ("a", "b")),
        ],
    )
    def test_what_they_catch(self, pattern, path, caught):
        found = compile_path(pattern).caught(path.split("."))
        assert (None if found is None else tuple(found)) == caught

    @given(
        st.lists(st.sampled_from(["a", "b", "*", "**"]), min_size=1, max_size=6),
        st.text(st.sampled_from("ab..\n"), max_size=14),
    )
    def test_they_catch_what_a_regular_expression_would(self, parts, path):
        assume(parts.count("**") < 2)
        expression = r"\.".join({"*": r"([^.]+)", "**": "(.+)"}.get(part, part) for part in parts)
        match = re.compile(expression, re.DOTALL).fullmatch(path)
        pattern = compile_path(".".join(parts))
        found = pattern.caught(path.split("."))
        assert found == (None if match is None else list(match.groups()))
        assert pattern.groups == parts.count("*") + parts.count("**")

    @pytest.mark.parametrize("pattern", ["", ".", "a..b", "a*", "**.**", "x" * 513])
    def test_wrong_ones(self, pattern):
        with pytest.raises(WrongPattern):
            compile_path(pattern)

    def test_templates_are_filled_once(self):
        assert fill("{a}-{b}", {"a": "{b}", "b": "x"}) == "{b}-x"


class TestRules:
    def test_without_picks_every_number_and_boolean_is_a_value(self):
        payload = {"t": 21.5, "on": True, "who": "x", "none": None, "list": [1, {"x": 2}], "text": " 4.5 "}
        assert found([TopicRule(topic="{device}")], "d1", payload) == {
            ("d1", "t"): 21.5,
            ("d1", "on"): True,
            ("d1", "list.0"): 1.0,
            ("d1", "list.1.x"): 2.0,
            ("d1", "text"): 4.5,
        }

    def test_picks_rename_and_leave_out(self):
        rule = TopicRule(
            topic="{site}/{device}",
            device="{gateway}-{site}-{device}",
            pick=(Pick("env.*.v", "{site}.{1}", "Cel"), Pick("raw", "x.{path}")),
        )
        decoded = extract([rule], "north/d1", {"env": {"a": {"v": 1}, "b": {"w": 2}}, "raw": 3, "other": 4})
        assert [(reading.device_id, reading.sensor, reading.value) for reading in decoded.readings] == [
            ("gw1-north-d1", "north.a", 1.0),
            ("gw1-north-d1", "x.raw", 3.0),
        ]
        assert decoded.units == {("gw1-north-d1", "north.a"): "Cel"}

    def test_words_become_values_and_texts_are_kept_when_wanted(self):
        rule = TopicRule(topic="{device}", values={"ON": True, "OFF": False, "low": 1}, ignore=("secret.**",))
        payload = {"a": "ON", "b": "OFF", "c": "low", "d": "else", "secret": {"x": 1}}
        assert found([rule], "d", payload) == {("d", "a"): True, ("d", "b"): False, ("d", "c"): 1.0}
        kept = msgspec.structs.replace(rule, texts=True)
        assert found([kept], "d", payload)["d", "d"] == "else"

    @pytest.mark.parametrize(("payload", "value"), [(b"21.5", 21.5), (b"true", True), (b"ON", True), (b'"OFF"', False)])
    def test_a_bare_value_is_called_by_the_rule(self, payload, value):
        rule = TopicRule(topic="{device}/{what}", sensor="{what}", values={"ON": True, "OFF": False})
        assert found([rule], "d/temp", payload) == {("d", "temp"): value}

    def test_the_time_may_stand_in_the_payload(self):
        rule = TopicRule(topic="{device}", time="meta.at")
        decoded = extract([rule], "d", {"meta": {"at": "2026-01-01T00:00:00Z", "x": 1}, "t": 2})
        assert {reading.at for reading in decoded.readings} == {NOW}
        assert extract([rule], "d", {"meta": {"at": "noon"}, "t": 2}).bad[0].faults[0].field == "meta.at"
        assert extract([rule], "d", {"t": 2}).readings[0].at == NOW

    def test_the_first_rule_decides(self):
        rules = [TopicRule(topic="x/#", ignore_topic=True), TopicRule(topic="{a}/{device}")]
        assert found(rules, "x/d", {"t": 1}) == {}
        assert found(rules, "y/d", {"t": 1}) == {("d", "t"): 1.0}
        assert extract(rules, "nothing", {"t": 1}) is None

    def test_a_mapping_may_be_for_some_gateways(self):
        rules = [TopicRule(topic="{device}")]
        assert extract(rules, "d", {"t": 1}, gateways=("gw2",)) is None
        assert found(rules, "d", {"t": 1}, gateways=("gw1", "gw2"))
        assert (
            Extraction([Mapping("m", "M", tuple(rules), enabled=False)]).extract("o", "g", "d", b"1", arrived_at=1)
            is None
        )

    @pytest.mark.parametrize(
        ("rule", "payload"),
        [
            (TopicRule(topic="{device}", payload="json"), b"{"),
            (TopicRule(topic="{device}"), b"\xff"),
            (TopicRule(topic="{device}"), b'{"a":1e999}'),
            (TopicRule(topic="{device}"), b'{"a\\n":1}'),
            (TopicRule(topic="{device}"), json.dumps({"a": list(range(6_000))}).encode()),
            (TopicRule(topic="{device}"), b"[" * 20 + b"1" + b"]" * 20),
            (TopicRule(topic="{device}", pick=(Pick("*", "same"),)), b'{"a":1,"b":2}'),
            (TopicRule(topic="{device}", texts=True), json.dumps({"a": "x" * 300}).encode()),
        ],
    )
    def test_what_can_not_be_used_is_bad_with_the_body_as_its_source(self, rule, payload):
        (bad,) = extract([rule], "d", payload).bad
        assert bad.faults
        assert bad.source == payload

    def test_no_message_is_held_against_patterns_for_long(self):
        """As regular expressions these patterns took 1.6 s each on such a message."""
        hostile = "**." + ".".join("*" * 100) + ".end"
        body = json.dumps({".".join("a" * 240): {str(number): 1 for number in range(4_900)}}).encode()
        began = time.process_time()
        assert len(found([TopicRule("{device}", ignore=(hostile,) * 10)], "d", body)) == 4_900
        assert time.process_time() - began < 4
        (bad,) = extract([TopicRule("{device}", ignore=(hostile,) * 11)], "d", body).bad
        assert "4900 values" in bad.faults[0].detail

    @pytest.mark.parametrize("topic", ["a/" * 32 + "a", "a" * 1_001])
    def test_a_topic_beyond_every_use_is_held_against_nothing(self, topic):
        (bad,) = extract([TopicRule("#", device="{gateway}")], topic, {"t": 1}).bad
        assert "levels" in bad.faults[0].detail
        assert Extraction([]).extract("o", "g", topic, b"1", arrived_at=NOW) is None

    @pytest.mark.parametrize(
        ("rule", "field"),
        [
            (TopicRule(topic="a+"), "topic"),
            (TopicRule(topic="x"), "device"),
            (TopicRule(topic="{device}", sensor="{what}"), "sensor"),
            (TopicRule(topic="{device}", device="{"), "device"),
            (TopicRule(topic="{device}", ignore=("a..b",)), "ignore[0]"),
            (TopicRule(topic="{device}", pick=(Pick("a..b"),)), "pick[0].path"),
            (TopicRule(topic="{device}", pick=(Pick("a.*", "{2}"),)), "pick[0].sensor"),
            (TopicRule(topic="{device}", pick=(Pick("a", unit="\n"),)), "pick[0].unit"),
        ],
    )
    def test_what_is_wrong_with_a_rule_is_named(self, rule, field):
        assert [fault.field for fault in mapping_faults(Mapping("m", "M", (rule,)))] == [f"rules[0].{field}"]

    def test_a_gateway_that_can_be_none_is_named(self):
        mapping = Mapping("m", "M", (TopicRule(topic="{device}"),), gateways=("a", "b.c"))
        assert [fault.field for fault in mapping_faults(mapping)] == ["gateways[1]"]


leaves = (
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=5)
)
trees = st.recursive(
    leaves, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3)
)


@given(
    st.sampled_from(sorted(TEMPLATES)), st.text(st.sampled_from("abtele/SENSOR{}#+ä\n"), min_size=1, max_size=20), trees
)
def test_whatever_comes_gives_what_can_be_stored(name, topic, tree):
    decoded = extract(TEMPLATES[name], topic, tree)
    for reading in decoded.readings if decoded else ():
        assert identifier_fault(reading.device_id) is None
        assert sensor_fault(reading.sensor) is None


class TestTasmota:
    """The shapes of its documentation and of its console."""

    RULES = TEMPLATES["tasmota"]

    def test_the_telemetry_of_sensors(self):
        payload = {
            "Time": "2024-02-24T22:20:38",
            "ENERGY": {"TotalStartTime": "2024-01-01T00:00:00", "Total": 1.956, "Power": 9, "Voltage": 231},
            "DS18B20": {"Id": "01131B123456", "Temperature": 20.6},
            "TempUnit": "C",
            "Switch1": "ON",
        }
        assert found(self.RULES, "tele/tasmota_9CF9D1/SENSOR", payload) == {
            ("tasmota_9CF9D1", "ENERGY.Total"): 1.956,
            ("tasmota_9CF9D1", "ENERGY.Power"): 9.0,
            ("tasmota_9CF9D1", "ENERGY.Voltage"): 231.0,
            ("tasmota_9CF9D1", "DS18B20.Temperature"): 20.6,
            ("tasmota_9CF9D1", "Switch1"): True,
        }

    def test_the_state(self):
        payload = {
            "Time": "2024-02-24T22:20:38",
            "Uptime": "0T00:10:11",
            "UptimeSec": 611,
            "Heap": 24,
            "POWER": "OFF",
            "Wifi": {"AP": 1, "SSId": "x", "RSSI": 44, "Signal": -78},
        }
        decoded = extract(self.RULES, "tele/plug/STATE", payload)
        assert {reading.sensor: reading.value for reading in decoded.readings} == {
            "uptime": 611.0,
            "POWER": False,
            "wifi.quality": 44.0,
            "wifi.signal": -78.0,
        }
        assert decoded.units["plug", "wifi.signal"] == "dBm"

    @pytest.mark.parametrize(
        ("topic", "payload", "sensor", "value"),
        [
            ("tele/plug/LWT", b"Online", "online", True),
            ("tele/plug/LWT", b"Offline", "online", False),
            ("stat/plug/POWER1", b"ON", "POWER1", True),
            ("stat/plug/RESULT", b'{"POWER":"OFF"}', "POWER", False),
        ],
    )
    def test_what_it_says_in_one_word(self, topic, payload, sensor, value):
        assert found(self.RULES, topic, payload) == {("plug", sensor): value}

    @pytest.mark.parametrize("topic", ["tele/plug/INFO1", "cmnd/plug/POWER", "stat/plug/STATUS"])
    def test_the_rest_is_left_out(self, topic):
        assert found(self.RULES, topic, {"Info1": {"Module": "x", "Version": 1}}) == {}


class TestZigbee2Mqtt:
    RULES = TEMPLATES["zigbee2mqtt"]

    def test_a_sensor(self):
        payload = {"temperature": 27.34, "humidity": 44.72, "linkquality": 120, "battery": "100.00", "last_seen": 5}
        assert found(self.RULES, "0x00158d0001", payload) == {
            ("0x00158d0001", "temperature"): 27.34,
            ("0x00158d0001", "humidity"): 44.72,
            ("0x00158d0001", "linkquality"): 120.0,
            ("0x00158d0001", "battery"): 100.0,
        }

    def test_a_bulb_with_a_friendly_name(self):
        payload = {"state": "ON", "brightness": 215, "color": {"x": 0.3, "y": 0.4}, "update": {"state": "idle"}}
        decoded = extract(self.RULES, "kitchen/floor_light", payload)
        device = device_id_of("kitchen/floor_light")
        assert {reading.sensor: reading.value for reading in decoded.readings} == {
            "state": True,
            "brightness": 215.0,
            "color.x": 0.3,
            "color.y": 0.4,
        }
        assert decoded.names == {device: "kitchen/floor_light"}

    @pytest.mark.parametrize("payload", [b'{"state":"online"}', b"online"])
    def test_availability_new_and_old(self, payload):
        assert found(self.RULES, "lamp/availability", payload) == {("lamp", "online"): True}

    @pytest.mark.parametrize("topic", ["bridge/state", "bridge/devices", "lamp/set", "lamp/get"])
    def test_the_rest_is_left_out(self, topic):
        assert found(self.RULES, topic, {"state": "online", "x": 1}) == {}


class TestChirpStack:
    RULES = TEMPLATES["chirpstack"]
    TOPIC = "application/17c82e96-be03-4f38-aef3-f83d48582d97/device/0101010101010101/event"

    def test_an_uplink(self):
        payload = {
            "deduplicationId": "3ac7e3c4-4401-4b8d-9386-a5c902f9202d",
            "time": "2022-07-18T09:34:15.775023242+00:00",
            "deviceInfo": {"deviceName": "Test device", "devEui": "0101010101010101"},
            "devAddr": "00189440",
            "fCnt": 4,
            "fPort": 1,
            "data": "qg==",
            "object": {"temperatureSensor": {"1": 22.5}, "mode": "eco"},
            "rxInfo": [{"gatewayId": "0016c001f153a14c", "rssi": -48, "snr": 9}],
        }
        decoded = extract(self.RULES, f"{self.TOPIC}/up", payload)
        assert decoded.bad == []
        assert {reading.sensor: reading.value for reading in decoded.readings} == {
            "temperatureSensor.1": 22.5,
            "mode": "eco",
            "frame_count": 4.0,
            "rssi": -48.0,
            "snr": 9.0,
        }
        assert {(reading.device_id, reading.at) for reading in decoded.readings} == {
            ("0101010101010101", 1_658_136_855_775_023)
        }

    def test_the_status_of_a_device(self):
        payload = {"time": "2022-07-18T09:34:15Z", "margin": 12, "externalPowerSource": False, "batteryLevel": 75.5}
        assert found(self.RULES, f"{self.TOPIC}/status", payload) == {
            ("0101010101010101", "link_margin"): 12.0,
            ("0101010101010101", "external_power"): False,
            ("0101010101010101", "battery"): 75.5,
        }

    @pytest.mark.parametrize("event", ["join", "ack", "txack", "log"])
    def test_the_rest_is_left_out(self, event):
        assert found(self.RULES, f"{self.TOPIC}/{event}", {"fCnt": 1}) == {}


class TestPlain:
    @pytest.mark.parametrize(
        ("payload", "values"),
        [
            (b"21.5", {"temp": 21.5}),
            (b"ON", {"temp": True}),
            (b"warm", {"temp": "warm"}),
            (b'{"a":1,"b":{"c":2}}', {"temp.a": 1.0, "temp.b.c": 2.0}),
        ],
    )
    def test_a_value_a_topic(self, payload, values):
        decoded = extract(TEMPLATES["plain"], "press-3/temp", payload)
        assert {reading.sensor: reading.value for reading in decoded.readings} == values
        assert {reading.device_id for reading in decoded.readings} == {"press-3"}

"""The shapes of JSON that devices send, beside the platform's own."""

from __future__ import annotations

import json
import math

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from iotplatform.domain.identifiers import sensor_fault
from iotplatform.domain.payloads.admission import Defaults, Sender
from iotplatform.domain.payloads.draft import MAX_DEPTH
from iotplatform.domain.payloads.formats import JSON, decode
from iotplatform.domain.reading import Reading
from iotplatform.errors import Rejected

NOW = 1_767_225_600_000_000
PUMP = Sender("orgA", "pump")


def read(body, sender=PUMP, **options):
    return decode(JSON, json.dumps(body).encode(), arrived_at=NOW, sender=sender, **options)


def values(body):
    decoded = read(body)
    assert decoded.bad == []
    return {reading.sensor: reading.value for reading in decoded.readings}


def faults(body):
    return [(fault.index, fault.field, fault.detail) for bad in read(body).bad for fault in bad.faults]


class TestFlatObjects:
    def test_every_field_is_a_sensor(self):
        decoded = read({"temp1": 21.5, "bat": 3, "door": True, "mode": "eco"})
        assert decoded.organization_id == "orgA"
        assert decoded.readings == [
            Reading("pump", "temp1", 21.5, NOW),
            Reading("pump", "bat", 3.0, NOW),
            Reading("pump", "door", True, NOW),
            Reading("pump", "mode", "eco", NOW),
        ]

    def test_names_and_the_time_may_stand_among_them(self):
        body = {"organization_id": "orgA", "device_id": "fan", "timestamp": 1, "rpm": 900}
        assert read(body, None).readings == [Reading("fan", "rpm", 900.0, 1_000_000)]

    def test_what_a_body_leaves_out_comes_from_the_defaults(self):
        decoded = read([{"rpm": 1}, {"device_id": "fan2", "rpm": 2}], None, defaults=Defaults("orgA", "fan"))
        assert [reading.device_id for reading in decoded.readings] == ["fan", "fan2"]

    def test_a_sender_of_an_organization_writes_for_all_its_devices(self):
        decoded = read([{"device_id": "a", "rpm": 1}, {"device_id": "b", "rpm": 2}], Sender("orgA"))
        assert [reading.device_id for reading in decoded.readings] == ["a", "b"]
        with pytest.raises(Rejected, match="own device"):
            read([{"organization_id": "orgB", "device_id": "a", "rpm": 1}], Sender("orgA"))

    def test_nested_objects_are_dotted_names(self):
        assert values({"env": {"temp": 21, "air": {"co2": 400}}, "bat": 3}) == {
            "env.temp": 21,
            "env.air.co2": 400,
            "bat": 3,
        }
        assert values({"values": {"env": {"temp": 21}, "bat": 3}}) == {"env.temp": 21, "bat": 3}

    def test_a_name_that_is_given_twice_is_a_fault(self):
        ((_, field, detail),) = faults({"a.b": 1, "a": {"b": 2}})
        assert (field, "twice" in detail) == ("a.b", True)
        assert faults({"values": {"a.b": 1, "a": {"b": 2}}})[0][1] == "values.a.b"

    def test_depth_is_bounded(self):
        tree: dict[str, object] = {"x": 1}
        for _ in range(MAX_DEPTH):
            tree = {"x": tree}
        assert "nested" in faults(tree)[0][2]
        assert len(values(tree["x"])) == 1

    @pytest.mark.parametrize("leaf", [None, [], [1], {}])
    def test_what_is_no_value_is_named(self, leaf):
        assert [found[:2] for found in faults([{"a": 1}, {"b": {"c": leaf}}])] == [(1, "b.c")]


class TestThingsBoard:
    def test_its_times_are_milliseconds_whatever_their_size(self):
        body = [{"ts": 1_451_649_600_512, "values": {"key1": "v", "key2": 2}}, {"ts": 5, "values": {"a": {"b": True}}}]
        assert read(body).readings == [
            Reading("pump", "key1", "v", 1_451_649_600_512_000),
            Reading("pump", "key2", 2.0, 1_451_649_600_512_000),
            Reading("pump", "a.b", True, 5_000),
        ]

    @pytest.mark.parametrize("ts", [None, "now", True, -1, 1e300, [], NOW])
    def test_a_wrong_time_is_named(self, ts):
        assert [found[:2] for found in faults({"ts": ts, "values": {"a": 1}})] == [(None, "ts")]

    @pytest.mark.parametrize("inside", [None, [], 5, {}])
    def test_values_that_are_none_are_named(self, inside):
        assert [found[1] for found in faults({"ts": 1, "values": inside})] == ["values"]


def test_the_good_are_told_from_the_bad():
    decoded = read([{"a": 1}, {"a": None}, 7, {"sensor_name": "b", "value": 2}, {"vlaue": 1, "value": 3}])
    assert [reading.sensor for reading in decoded.readings] == ["a", "b"]
    assert [[fault.index for fault in bad.faults] for bad in decoded.bad] == [[1], [2], [4]]
    assert [bad.source for bad in decoded.bad] == [{"a": None}, 7, {"vlaue": 1, "value": 3}]
    with pytest.raises(Rejected) as caught:
        decoded.require_all()
    assert [fault.index for fault in caught.value.faults] == [1, 2, 4]


leaves = st.booleans() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=8) | st.none()
trees = st.recursive(leaves, lambda inner: st.dictionaries(st.text(max_size=4), inner, max_size=3), max_leaves=8)


@given(st.dictionaries(st.text(max_size=4), trees, max_size=4) | st.lists(trees, max_size=3))
@example({"": 1})
@example({"a": {"": 1}})
@example({"ts": 1, "values": {"": 1}})
def test_whatever_comes_is_admitted_or_bad(body):
    try:
        decoded = read(body)
    except Rejected as error:
        refusal = error
    else:
        check(decoded)
        return
    assert refusal.kind in {"invalid", "forbidden"}


def check(decoded):
    for reading in decoded.readings:
        assert sensor_fault(reading.sensor) is None
        assert isinstance(reading.value, bool | str) or math.isfinite(reading.value)
    for bad in decoded.bad:
        assert bad.faults


@given(
    st.dictionaries(
        st.text("abc", min_size=1, max_size=3).map(lambda name: f"x{name}"),
        st.booleans() | st.floats(allow_nan=False, allow_infinity=False) | st.text("abc ", max_size=8),
        min_size=1,
    )
)
def test_a_flat_object_comes_back_as_it_was(body):
    found = values(body)
    assert found == body
    assert [type(value) for value in found.values()] == [type(value) for value in body.values()]

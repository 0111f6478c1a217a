"""JSON bodies of /ingest: every body is admitted or refused with what is wrong, and nothing else ever happens."""

from __future__ import annotations

import json
import math

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from iotplatform.domain.identifiers import identifier_fault, sensor_fault
from iotplatform.domain.reading import MAX_TEXT_BYTES, Reading, decode_block, encode_readings, join_block
from iotplatform.errors import Fault, Rejected
from iotplatform.roles.ingest.payload import MAX_FAULTS, Admitted, Sender, blame, decode

NOW = 1_767_225_600_000_000
SENDER = Sender("orgA", "machine-123")
READING = {
    "organization_id": "orgA",
    "device_id": "machine-123",
    "sensor_name": "temp1",
    "value": 85.0,
    "timestamp": 1_672_531_200,
}


def read(body, sender=None):
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    return decode(data, arrived_at=NOW, sender=sender)


def refused(body, sender=None):
    with pytest.raises(Rejected) as caught:
        read(body, sender)
    return caught.value


def faults(body, sender=None):
    """(index, field, detail) of each."""
    error = refused(body, sender)
    assert error.kind == "invalid"
    return [(fault.index, fault.field, fault.detail) for fault in error.faults]


def reading(**changes):
    """A good one with changes; a change to `...` leaves the field out."""
    return {field: value for field, value in (READING | changes).items() if value is not ...}


class TestWhateverComes:
    """Admitted or Rejected: anything else would be a 500."""

    scalars = (
        st.none()
        | st.booleans()
        | st.integers(-(10**25), 10**25)
        | st.floats(allow_nan=False, allow_infinity=False)
        | st.text(st.characters(exclude_categories=["Cs"]), max_size=10)
        | st.sampled_from(["orgA", "machine-123", "temp1", "2026-01-01T00:00:00Z", "a\x00b", "€" * 100, ""])
    )
    anything = st.recursive(
        scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3)
    )
    # Objects whose fields are right more often than not, so that every check is reached.
    elements = st.fixed_dictionaries(
        {},
        optional={
            "organization_id": st.sampled_from(["orgA", "orgA", "orgB"]) | anything,
            "device_id": st.sampled_from(["machine-123", "b"]) | anything,
            "sensor_name": st.sampled_from(["temp1", "a.b,c=d"]) | anything,
            "value": st.floats(allow_nan=False, allow_infinity=False) | anything,
            "timestamp": st.integers(0, 1_800_000_000) | anything,
            "values": st.dictionaries(st.text(max_size=3), anything, max_size=3) | anything,
            "surplus": anything,
        },
    )
    senders = st.sampled_from([None, SENDER])

    @staticmethod
    def check(body, sender):
        """Returns the refusal, None when there was none."""
        try:
            admitted = decode(body, arrived_at=NOW, sender=sender)
        except Rejected as error:
            refusal = error
        else:
            TestWhateverComes.check_admitted(admitted)
            return None
        assert refusal.kind in {"malformed", "invalid", "forbidden"}
        assert refusal.kind != "forbidden" or sender
        assert (refusal.kind == "invalid") == bool(refusal.faults)
        # The answer can be written.
        json.dumps([refusal.detail, [fault.detail for fault in refusal.faults]]).encode()
        assert isinstance(blame(body)[1], int)
        return refusal

    @staticmethod
    def check_admitted(admitted):
        assert isinstance(admitted, Admitted)
        assert identifier_fault(admitted.organization_id) is None
        assert admitted.readings
        for found in admitted.readings:
            assert identifier_fault(found.device_id) is None
            assert sensor_fault(found.sensor) is None
            assert 0 <= found.at <= NOW + 86_400_000_000
            assert not isinstance(found.value, float) or math.isfinite(found.value)
            assert not isinstance(found.value, str) or len(found.value.encode()) <= MAX_TEXT_BYTES
        # It can be stored.
        block = join_block([encode_readings(admitted.readings)], len(admitted.readings))
        assert decode_block(block) == admitted.readings

    @given(st.binary(max_size=200), senders)
    @example(b"", None)
    @example(b"\xef\xbb\xbf{}", None)
    @example(b"[" * 5_000, None)
    @example(b'{"a":' * 5_000, None)
    @example(b'{"value":' + b"[" * 5_000, None)
    @example(b'[1,"\xff"]', None)
    @example(b'{"sensor_name":"\xff"}', None)
    @example(b'{"sensor_name":"\\ud800"}', None)
    @example(b'{"value":' + b"1" * 5_000 + b"}", None)
    @example(b'[{"value":' + b"1" * 5_000 + b"}]", None)
    @example(b'{"timestamp":' + b"1" * 400 + b"}", None)
    @example(b'{"timestamp":1e400}', None)
    @example(b'{"x\\ny":1}', None)
    def test_arbitrary_bytes(self, body, sender):
        self.check(body, sender)

    @given(anything, senders)
    def test_arbitrary_json(self, body, sender):
        self.check(json.dumps(body).encode(), sender)

    @settings(max_examples=500)
    @given(elements | st.lists(elements, max_size=4), senders)
    def test_almost_readings(self, body, sender):
        error = self.check(json.dumps(body).encode(), sender)
        if error is None or error.kind != "invalid" or body == []:
            return
        for fault in error.faults:
            assert fault.field
            assert (fault.index is None) == isinstance(body, dict)
            assert fault.index is None or fault.index < len(body)

    @given(elements | st.lists(elements, max_size=3), st.data())
    def test_json_that_is_cut_off_is_malformed(self, body, data):
        text = json.dumps(body).encode()
        assert refused(text[: data.draw(st.integers(0, len(text) - 1))]).kind == "malformed"


class TestShapes:
    def test_one_reading(self):
        assert read(reading()) == Admitted("orgA", [Reading("machine-123", "temp1", 85.0, 1_672_531_200_000_000)])

    def test_an_array_keeps_its_order(self):
        admitted = read([reading(value=value) for value in (3, 1, 2)])
        assert [found.value for found in admitted.readings] == [3.0, 1.0, 2.0]

    def test_several_values_of_one_device_at_one_time(self):
        body = {"organization_id": "orgA", "device_id": "m", "timestamp": 1, "values": {"temp1": 21.5, "door": True}}
        assert read(body).readings == [Reading("m", "temp1", 21.5, 1_000_000), Reading("m", "door", True, 1_000_000)]
        assert read([body, reading()]).readings == [*read(body).readings, *read(reading()).readings]

    @pytest.mark.parametrize(
        ("sent", "kept"),
        [("85", 85.0), ("1e3", 1_000.0), ("-0.0", 0.0), ("true", True), ("false", False), ('"on"', "on"), ('""', "")],
    )
    def test_kinds_of_values(self, sent, kept):
        body = json.dumps(reading()).replace("85.0", sent).encode()
        (found,) = read(body).readings
        assert found.value == kept
        assert type(found.value) is type(kept)

    def test_a_reading_without_a_time_takes_that_of_its_arrival(self):
        assert read(reading(timestamp=...)).readings[0].at == NOW
        assert read(reading(timestamp=None)).readings[0].at == NOW

    def test_times_in_other_notations(self):
        for timestamp in (1_672_531_200_000, "2023-01-01T00:00:00Z", "2023-01-01T01:00:00+01:00"):
            assert read(reading(timestamp=timestamp)).readings[0].at == 1_672_531_200_000_000


class TestFaults:
    @pytest.mark.parametrize("field", ["organization_id", "device_id", "sensor_name", "value"])
    def test_a_missing_field_is_named(self, field):
        assert faults(reading(**{field: ...})) == [(None, field, "is required")]
        assert faults([reading(), reading(**{field: ...})]) == [(1, field, "is required")]

    def test_everything_that_is_missing_is_named_at_once(self):
        assert [field for _, field, _ in faults({})] == ["organization_id", "device_id", "sensor_name"]

    @pytest.mark.parametrize(
        ("field", "wrong"),
        [
            ("organization_id", "a.b"),
            ("organization_id", ""),
            ("organization_id", "a" * 65),
            ("organization_id", 5),
            ("organization_id", "orgA\n"),
            ("device_id", "a b"),
            ("device_id", "ä"),
            ("device_id", True),
            ("sensor_name", ""),
            ("sensor_name", "a\nb"),
            ("sensor_name", "a" * 513),
            ("sensor_name", 7),
            ("value", None),
            ("value", []),
            ("value", {"a": 1}),
            ("value", "x" * 257),
            ("value", "€" * 86),
            ("value", "a\x00b"),
            ("timestamp", -1),
            ("timestamp", "yesterday"),
            ("timestamp", []),
            ("timestamp", True),
            ("timestamp", "2023-01-01T00:00:00"),
            ("timestamp", 1e30),
            ("timestamp", NOW + 86_400_000_001),
        ],
    )
    def test_a_wrong_field_is_named(self, field, wrong):
        assert [found[:2] for found in faults(reading(**{field: wrong}))] == [(None, field)]
        assert [found[:2] for found in faults([reading(), reading(**{field: wrong})])] == [(1, field)]

    @pytest.mark.parametrize("number", ["1e999", "-1e999", "9" * 400])
    @pytest.mark.parametrize("field", ["value", "timestamp"])
    def test_a_number_out_of_range_is_named(self, field, number):
        alone = json.dumps(reading(**{field: "HERE"})).replace('"HERE"', number)
        assert [found[:2] for found in faults(alone.encode())] == [(None, field)]
        in_an_array = f"[{json.dumps(reading())}, {alone}]"
        assert [found[:2] for found in faults(in_an_array.encode())] == [(1, field)]

    @pytest.mark.parametrize("constant", ["NaN", "Infinity", "-Infinity"])
    def test_what_json_has_no_word_for_is_malformed(self, constant):
        assert refused(json.dumps(reading()).replace("85.0", constant).encode()).kind == "malformed"

    def test_malformed_comes_before_wrong(self):
        """What can't be parsed is a 400, even if a field before the place of the mistake is wrong."""
        assert refused(b'[{"device_id": 5}, oops]').kind == "malformed"
        assert refused(b'[1, "\xff"]').kind == "malformed"

    def test_the_faults_of_several_readings(self):
        body = [reading(), reading(value=...), reading(), reading(device_id="a.b", timestamp=-1)]
        assert [found[:2] for found in faults(body)] == [(1, "value"), (3, "device_id"), (3, "timestamp")]
        wrong_types = [reading(), reading(value=None), 7, reading(device_id=1)]
        assert [found[:2] for found in faults(wrong_types)] == [(1, "value"), (2, None), (3, "device_id")]

    def test_the_list_of_faults_ends_somewhere(self):
        assert len(faults([reading(value=None)] * 5_000)) == MAX_FAULTS
        assert MAX_FAULTS <= len(faults([reading(value=...)] * 5_000)) < MAX_FAULTS + 5

    def test_an_unknown_field_is_named(self):
        assert faults(reading(vlaue=1)) == [(None, "vlaue", "is unknown")]
        assert faults([reading(), reading(**{"a\nb": 1})]) == [(1, "a\nb", "is unknown")]
        ((_, field, _),) = faults(reading(**{"x" * 10_000: 1}))
        assert len(field) <= 80

    def test_a_wrong_organization_says_nothing_about_the_next(self):
        body = [reading(organization_id="a.b"), reading(), reading()]
        assert [found[:2] for found in faults(body)] == [(0, "organization_id")]

    def test_one_organization_a_request(self):
        ((index, field, detail),) = faults([reading(), reading(organization_id="orgB"), reading()])
        assert (index, field) == (1, "organization_id")
        assert "one organization" in detail

    @pytest.mark.parametrize("body", [[], {}, None, 5, "text", True, [[]], [[reading()]], [None]])
    def test_bodies_that_hold_no_reading(self, body):
        assert refused(body).kind == "invalid"

    def test_values_stand_alone(self):
        assert [found[1] for found in faults(reading(values={"a": 1}))] == ["values"]
        assert [found[1] for found in faults(reading(sensor_name=..., values={"a": 1}))] == ["values"]
        assert [found[1] for found in faults(reading(value=..., values={"a": 1}))] == ["values"]
        assert [found[1] for found in faults(reading(sensor_name=..., value=..., values={}))] == ["values"]

    def test_faults_inside_values(self):
        body = reading(sensor_name=..., value=..., values={"ok": 1, "": 2, "a\nb": 3, "text": "x" * 257})
        assert [found[1] for found in faults(body)] == ["values", "values", "values.text"]
        assert [
            found[:2] for found in faults([reading(), reading(sensor_name=..., value=..., values={"a": None})])
        ] == [(1, "values")]


class TestSender:
    """A device token speaks for its own device, and need not say so."""

    def test_fills_in_what_is_left_out(self):
        bare = reading(organization_id=..., device_id=...)
        assert read(bare, SENDER) == read(reading())
        assert read([bare, reading(), reading(device_id=...)], SENDER).readings == read([reading()] * 3).readings

    @pytest.mark.parametrize("other", [{"organization_id": "orgB"}, {"device_id": "machine-124"}, {"device_id": ""}])
    def test_forbids_what_is_somebody_elses(self, other):
        assert refused(reading(**other), SENDER).kind == "forbidden"
        assert refused([reading(), reading(**other)], SENDER).kind == "forbidden"

    def test_betrays_nothing_of_the_rest(self):
        """403 comes before 422."""
        assert refused([reading(value=...), reading(organization_id="orgB")], SENDER).kind == "forbidden"


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (reading(value=...), ("orgA", 1)),
        ([reading(value=...), reading()], ("orgA", 2)),
        ([{}, reading()], ("orgA", 2)),
        ([{}, {}], (None, 2)),
        ({}, (None, 1)),
        (b"{", (None, 1)),
        (b'{"organization_id": 5}', (None, 1)),
        (b"[" * 5_000, (None, 1)),
        (b'{"organization_id":"\xff"}', (None, 1)),
    ],
)
def test_who_is_to_blame(body, expected):
    assert blame(body if isinstance(body, bytes) else json.dumps(body).encode()) == expected


def test_a_fault_is_what_it_says():
    (fault,) = refused(reading(value=...)).faults
    assert fault == Fault("is required", None, "value")

"""CBOR: what an independent encoder writes is read as it was, and no bytes do anything but give an item or NotCbor."""

from __future__ import annotations

import math

import cbor2
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from iotplatform.domain.payloads.admission import Sender
from iotplatform.domain.payloads.cbor import MAX_DEPTH, MAX_LABEL, NotCbor, decode_cbor
from iotplatform.domain.payloads.formats import BY_MEDIA_TYPE, decode
from iotplatform.domain.reading import Reading
from iotplatform.errors import Rejected

NOW = 1_767_225_600_000_000
scalars = (
    st.none()
    | st.booleans()
    | st.integers(-(1 << 80), 1 << 80)
    | st.floats(allow_nan=False)
    | st.text(max_size=30)
    | st.binary(max_size=30)
)
items = st.recursive(
    scalars,
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.text(max_size=4) | st.integers(-MAX_LABEL, MAX_LABEL), inner, max_size=4)
    ),
    max_leaves=20,
)


@given(items, st.booleans())
def test_what_an_encoder_writes_is_read_as_it_was(item, canonical):
    assert decode_cbor(cbor2.dumps(item, canonical=canonical)) == item


@given(st.binary(max_size=60))
@example(b"\x9f" * 5_000)
@example(b"\x81" * 5_000)
@example(b"\x9b" + b"\xff" * 8)
@example(b"\xbb" + b"\x7f" * 8)
@example(b"\x5b" + b"\xff" * 8)
@example(b"\xff")
@example(b"\x81\xff")
@example(b"\xa1\xff\x01")
@example(b"\xbf\x61a\xff")
@example(b"\x5f\x61a\xff")
@example(b"\xd8\x1c\x81\xd8\x1d\x00")
@example(b"\xc4\x82\x1b" + b"\x7f" * 8 + b"\x01")
def test_arbitrary_bytes_are_an_item_or_none(data):
    try:
        item = decode_cbor(data)
    except NotCbor as error:
        refusal = error
        assert str(refusal)
    else:
        assert isinstance(item, list | dict | str | bytes | int | float | bool | type(None))


@given(items, st.data())
def test_what_is_cut_off_or_followed_is_refused(item, data):
    encoded = cbor2.dumps(item)
    with pytest.raises(NotCbor):
        decode_cbor(encoded[: data.draw(st.integers(0, len(encoded) - 1))])
    with pytest.raises(NotCbor, match="follow"):
        decode_cbor(encoded + b"\x00")


# Out of RFC 8949, appendix A.
@pytest.mark.parametrize(
    ("encoded", "item"),
    [
        ("1bffffffffffffffff", 18446744073709551615),
        ("c249010000000000000000", 18446744073709551616),
        ("3bffffffffffffffff", -18446744073709551616),
        ("c349010000000000000000", -18446744073709551617),
        ("f93c00", 1.0),
        ("f97bff", 65504.0),
        ("fa47c35000", 100000.0),
        ("fb3ff199999999999a", 1.1),
        ("f97c00", math.inf),
        ("c11a514b67b0", 1363896240),
        ("c074323031332d30332d32315432303a30343a30305a", "2013-03-21T20:04:00Z"),
        ("d9d9f783010203", [1, 2, 3]),
        ("5f42010243030405ff", b"\x01\x02\x03\x04\x05"),
        ("7f657374726561646d696e67ff", "streaming"),
        ("9f018202039f0405ffff", [1, [2, 3], [4, 5]]),
        ("bf61610161629f0203ffff", {"a": 1, "b": [2, 3]}),
        ("c48221196ab3", 273.15),
    ],
)
def test_examples(encoded, item):
    assert decode_cbor(bytes.fromhex(encoded)) == item


@pytest.mark.parametrize(
    "encoded", ["a2616101616102", "d8206161", "f7ff", "1c", "f8ff", "a18001", "a1f501", "a1f93c0001"]
)
def test_what_is_not_understood_is_refused(encoded):
    with pytest.raises(NotCbor):
        decode_cbor(bytes.fromhex(encoded))


def test_depth_is_bounded():
    assert decode_cbor(b"\x81" * MAX_DEPTH + b"\x01")
    with pytest.raises(NotCbor, match="nested"):
        decode_cbor(b"\x81" * (MAX_DEPTH + 1) + b"\x01")


class TestBodies:
    @staticmethod
    def read(item):
        body = item if isinstance(item, bytes) else cbor2.dumps(item)
        return decode(BY_MEDIA_TYPE["application/cbor"], body, arrived_at=NOW, sender=Sender("orgA", "pump"))

    def test_the_shapes_are_those_of_json(self):
        decoded = self.read([{"temp": 21.5, "air": {"co2": 400}}, {"ts": 1_000, "values": {"on": True}}])
        assert decoded.readings == [
            Reading("pump", "temp", 21.5, NOW),
            Reading("pump", "air.co2", 400.0, NOW),
            Reading("pump", "on", True, 1_000_000),
        ]

    def test_what_is_no_value_is_bad(self):
        assert [bad.faults[0].field for bad in self.read([{"a": b"x"}, {"b": math.nan}, {"c": None}]).bad] == [*"abc"]

    @pytest.mark.parametrize("body", [b"", b"{}", b"\xa1\x01\x02", b"\x81\xa1\x01\x02"])
    def test_what_is_none_is_malformed(self, body):
        with pytest.raises(Rejected) as caught:
            self.read(body)
        assert caught.value.kind == "malformed"

    @given(items)
    def test_whatever_comes_is_admitted_or_refused(self, item):
        try:
            decoded = self.read(item)
        except Rejected as error:
            refusal = error
            assert refusal.kind in {"malformed", "invalid", "forbidden"}
        else:
            assert decoded.readings or decoded.bad

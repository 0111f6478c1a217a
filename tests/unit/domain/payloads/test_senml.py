"""SenML: every rule of resolution, in JSON and in CBOR."""

from __future__ import annotations

import json

import cbor2
import pytest
from hypothesis import given
from hypothesis import strategies as st

from iotplatform.domain.payloads.admission import Sender
from iotplatform.domain.payloads.formats import BY_LEVEL, BY_MEDIA_TYPE, decode
from iotplatform.domain.payloads.senml import _LABELS
from iotplatform.domain.reading import Reading
from iotplatform.errors import Rejected

NOW = 1_767_225_600_000_000
NUMBERS = {name: label for label, name in _LABELS.items()}


def in_json(pack):
    return BY_MEDIA_TYPE["application/senml+json"], json.dumps(pack).encode()


def in_cbor(pack):
    numbered = [{NUMBERS.get(key, key): value for key, value in record.items()} for record in pack]
    return BY_MEDIA_TYPE["application/senml+cbor"], cbor2.dumps(numbered)


def in_either(pack):
    return BY_LEVEL["senml"], json.dumps(pack).encode()


@pytest.fixture(params=[in_json, in_cbor, in_either])
def read(request):
    def read_pack(pack):
        known, body = request.param(pack)
        return decode(known, body, arrived_at=NOW, sender=Sender("orgA", "pump"))

    return read_pack


def found(decoded):
    assert decoded.bad == []
    return [(reading.sensor, reading.value, reading.at) for reading in decoded.readings]


def test_one_record(read):
    decoded = read([{"n": "urn:dev:ow:10e2073a01080063", "u": "Cel", "v": 23.1}])
    assert decoded.readings == [Reading("pump", "urn:dev:ow:10e2073a01080063", 23.1, NOW)]
    assert decoded.units == {("pump", "urn:dev:ow:10e2073a01080063"): "Cel"}


def test_bases_hold_until_they_are_set_again(read):
    pack = [
        {"bn": "dev:a:", "bt": 1_276_020_076.001, "bu": "A", "bver": 10, "n": "voltage", "u": "V", "v": 120.1},
        {"n": "current", "t": -5, "v": 1.2},
        {"n": "current", "t": 0.000_001, "v": 1.3},
        {"bn": "dev:b:", "bu": "Cel", "n": "temp", "v": 20},
        {"n": "hot", "vb": True},
    ]
    decoded = read(pack)
    assert found(decoded) == [
        ("dev:a:voltage", 120.1, 1_276_020_076_001_000),
        ("dev:a:current", 1.2, 1_276_020_071_001_000),
        ("dev:a:current", 1.3, 1_276_020_076_001_001),
        ("dev:b:temp", 20.0, 1_276_020_076_001_000),
        ("dev:b:hot", True, 1_276_020_076_001_000),
    ]
    assert [decoded.units["pump", name] for name in ("dev:a:voltage", "dev:a:current", "dev:b:temp", "dev:b:hot")] == [
        "V",
        "A",
        "Cel",
        "Cel",
    ]


def test_small_times_are_relative_to_the_arrival(read):
    assert [at - NOW for _, _, at in found(read([{"n": "a", "v": 1, "t": t} for t in (-10, 0, 0.5, 60)]))] == [
        -10_000_000,
        0,
        500_000,
        60_000_000,
    ]
    assert found(read([{"n": "a", "v": 1, "t": 2**28}]))[0][2] == 2**28 * 1_000_000


def test_a_base_value_and_a_base_sum_are_added(read):
    pack = [{"bn": "x:", "bv": 20, "bs": 100, "n": "a", "v": 0.1, "s": 0.5}, {"n": "b", "s": 1}, {"n": "c", "v": 2}]
    assert [(name, value) for name, value, _ in found(read(pack))] == [
        ("x:a", 20.1),
        ("x:a.sum", 100.5),
        ("x:b", 20.0),
        ("x:b.sum", 101.0),
        ("x:c", 22.0),
        ("x:c.sum", 100.0),
    ]


def test_a_sum_needs_no_value(read):
    assert [(name, value) for name, value, _ in found(read([{"n": "kwh", "s": 5}]))] == [("kwh.sum", 5.0)]


def test_the_other_values(read):
    pack = [{"n": "a", "vs": "open"}, {"n": "b", "vb": False}, {"n": "c", "vd": "aGkgCg"}]
    assert [value for _, value, _ in found(read(pack))] == ["open", False, "aGkgCg"]


def test_data_in_cbor_is_bytes():
    decoded = decode(BY_LEVEL["senml"], cbor2.dumps([{0: "c", 8: b"hi \n"}]), arrived_at=NOW, sender=Sender("o", "d"))
    assert decoded.readings[0].value == "aGkgCg"


def test_a_record_of_bases_alone_is_no_reading(read):
    assert len(found(read([{"bn": "x:", "bt": 1e9, "bu": "W"}, {"n": "a", "v": 1}]))) == 1


def test_what_is_unknown_is_ignored_unless_it_must_not_be(read):
    assert len(found(read([{"n": "a", "v": 1, "colour": "red", "ut": 5}]))) == 1
    (bad,) = read([{"n": "a", "v": 1}, {"n": "a", "v": 1, "key_": 1}]).bad
    assert [(fault.index, fault.field) for fault in bad.faults] == [(1, "key_")]


@pytest.mark.parametrize(
    ("record", "field"),
    [
        ({"v": 1}, "n"),
        ({"n": "-a", "v": 1}, "n"),
        ({"n": "a b", "v": 1}, "n"),
        ({"n": "ä", "v": 1}, "n"),
        ({"n": 5, "v": 1}, "n"),
        ({"n": "a"}, "v"),
        ({"n": "a", "v": "1"}, "v"),
        ({"n": "a", "v": True}, "v"),
        ({"n": "a", "v": None}, "v"),
        ({"n": "a", "vb": 1}, "vb"),
        ({"n": "a", "vs": "x" * 257}, "vs"),
        ({"n": "a", "vd": "!"}, "vd"),
        ({"n": "a", "v": 1, "vs": "x"}, "vs"),
        ({"n": "a", "v": 1, "t": "now"}, "t"),
        ({"n": "a", "v": 1, "t": 1e300}, "t"),
        ({"n": "a", "v": 1, "t": 86_401}, "t"),
        ({"n": "a", "v": 1, "t": -1e11}, "t"),
        ({"n": "a", "v": 1, "u": "x" * 65}, "u"),
        ({"n": "a", "v": 1, "bt": "x"}, "bt"),
        ({"n": "a" * 513, "v": 1}, "n"),
    ],
)
def test_what_is_wrong_is_named(read, record, field):
    (bad,) = read([record]).bad
    assert [fault.field for fault in bad.faults] == [field]
    (bad,) = read([{"n": "ok", "v": 1}, record]).bad
    assert [(fault.index, fault.field) for fault in bad.faults] == [(1, field)]


def test_a_base_that_is_wrong_spoils_what_rests_on_it(read):
    decoded = read([{"bn": 7, "n": "a", "v": 1}, {"n": "b", "v": 1}, {"bn": "x:", "n": "c", "v": 1}])
    assert [[fault.field for fault in bad.faults] for bad in decoded.bad] == [["bn"], ["bn"]]
    assert [reading.sensor for reading in decoded.readings] == ["x:c"]


@pytest.mark.parametrize("version", [11, 5, "10", None, True])
def test_another_version_leaves_nothing_to_be_used(read, version):
    with pytest.raises(Rejected) as caught:
        read([{"n": "a", "v": 1}, {"bver": version, "n": "b", "v": 1}])
    assert [(fault.index, fault.field) for fault in caught.value.faults] == [(1, "bver")]


def test_numbers_beyond_every_bound():
    for literal in ("1e400", "-1e400", "1e999999999999999999999", "9" * 5_000):
        body = b'[{"n":"a","v":%s}]' % literal.encode()
        (bad,) = decode(BY_LEVEL["senml"], body, arrived_at=NOW, sender=Sender("o", "d")).bad
        assert bad.faults[0].field == "v"
    body = b'[{"n":"a","v":1e-999999999999999999999,"bt":9e999999,"t":9e999999}]'
    (bad,) = decode(BY_LEVEL["senml"], body, arrived_at=NOW, sender=Sender("o", "d")).bad
    assert bad.faults[0].field == "t"


@pytest.mark.parametrize("body", [b"", b"[", b"\xff", b'[{"n":"a","v":NaN}]'])
def test_what_can_not_be_parsed_is_malformed(body):
    with pytest.raises(Rejected) as caught:
        decode(BY_MEDIA_TYPE["application/senml+json"], body, arrived_at=NOW)
    assert caught.value.kind == "malformed"


@pytest.mark.parametrize("pack", [{}, 5, [], [{"bn": "x"}]])
def test_what_holds_no_record_is_invalid(pack):
    with pytest.raises(Rejected) as caught:
        decode(BY_MEDIA_TYPE["application/senml+json"], json.dumps(pack).encode(), arrived_at=NOW)
    assert caught.value.kind == "invalid"


anything = st.none() | st.booleans() | st.integers(-(10**30), 10**30) | st.floats() | st.text(max_size=4) | st.just([])
records = st.dictionaries(st.sampled_from([*NUMBERS, "x", "x_"]), anything, max_size=6)


@given(st.lists(records | anything, max_size=4))
def test_whatever_comes_is_admitted_or_refused(pack):
    for known, body in (
        (BY_MEDIA_TYPE["application/senml+json"], json.dumps(pack).encode()),
        (BY_MEDIA_TYPE["application/senml+cbor"], cbor2.dumps(pack)),
    ):
        try:
            decoded = decode(known, body, arrived_at=NOW, sender=Sender("o", "d"))
        except Rejected as error:
            refusal = error
            assert refusal.kind in {"malformed", "invalid"}
        else:
            assert all(0 <= reading.at <= NOW + 86_400_000_000 for reading in decoded.readings)
            assert all(bad.faults for bad in decoded.bad)


names = st.text("abz09", min_size=1, max_size=4)
numbers = st.integers(-(10**6), 10**6).map(lambda number: number / 64)


@given(
    names,
    st.integers(2**28, 1_700_000_000),
    st.lists(st.tuples(names, st.integers(-1000, 1000), numbers | st.booleans() | st.text("xyz")), min_size=1),
)
def test_a_resolved_pack_and_its_short_form_say_the_same(base, time, rows):
    key = {bool: "vb", str: "vs", float: "v"}
    short = [{"n": name, "t": offset, key[type(value)]: value} for name, offset, value in rows]
    long = [{"n": base + name, "t": time + 1_000 + offset, key[type(value)]: value} for name, offset, value in rows]
    short[0] |= {"bn": base, "bt": time + 1_000}
    results = [
        decode(known, body, arrived_at=NOW, sender=Sender("o", "d"))
        for known, body in (in_json(short), in_cbor(short), in_json(long), in_cbor(long))
    ]
    assert all(found(result) == found(results[0]) for result in results)
    assert [value for _, value, _ in found(results[0])] == [value for *_, value in rows]

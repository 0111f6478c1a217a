"""Line protocol: its grammar, where its points go, and that different series stay different."""

from __future__ import annotations

import re

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from influxdb_client import Point

from iotplatform.domain.identifiers import device_id_of, identifier_fault
from iotplatform.domain.payloads.admission import Sender, admit
from iotplatform.domain.payloads.line_protocol import PRECISIONS, read_lines
from iotplatform.domain.reading import Reading
from iotplatform.errors import Rejected

NOW = 1_767_225_600_000_000


def read(text, sender=None, precision="ns"):
    body = text if isinstance(text, bytes) else text.encode()
    return admit(read_lines(body, NOW, sender, precision), NOW, sender or Sender("orgA"))


def one(text, **options):
    decoded = read(text, **options)
    assert decoded.bad == []
    (reading,) = decoded.readings
    return reading


def escape(name):
    return name.replace(" ", "\\ ")


def series(text):
    reading = one(text)
    return reading.device_id, reading.sensor


class TestWhereAPointGoes:
    @pytest.mark.parametrize(
        ("line", "device", "sensor"),
        [
            ("temp,device=d1 value=1", "d1", "temp.value"),
            ("cpu,host=h1 usage=1", "h1", "cpu.usage"),
            ("cpu,host=h1,device=d1 usage=1", "d1", "cpu.usage,host=h1"),
            ("boiler temp=1", "boiler", "boiler.temp"),
            ("cpu,host=h1,cpu=cpu0,az=b usage=1", "h1", "cpu.usage,az=b,cpu=cpu0"),
            ("cpu,az=b,cpu=cpu0,host=h1 usage=1", "h1", "cpu.usage,az=b,cpu=cpu0"),
            (r"a\,b,device=d,t\ 1=x\=y\,z f\ 1=1", "d", r"a\,b.f 1,t 1=x\=y\,z"),
            (r"m,device=d,path=C:\dir f=1", "d", r"m.f,path=C:\\dir"),
        ],
    )
    def test_devices_and_sensors(self, line, device, sensor):
        assert series(line) == (device, sensor)

    @pytest.mark.parametrize("name", ["büro 1", "server.example.com", "x" * 65, "a/b"])
    def test_a_name_that_can_be_no_id_is_hashed_and_kept(self, name):
        decoded = read(f"m,host={escape(name)} f=1")
        (reading,) = decoded.readings
        assert identifier_fault(reading.device_id) is None
        assert re.fullmatch(r"[A-Za-z0-9_-]+-[0-9a-f]{8}", reading.device_id)
        assert decoded.names == {reading.device_id: name}

    def test_hashed_names_stay_apart(self):
        assert device_id_of("a.b") == "a-b-" + device_id_of("a.b")[-8:]
        assert len({device_id_of(name) for name in ("a.b", "a/b", "a b", "a-b", "x" * 70, "x" * 71)}) == 6
        assert device_id_of("plain_1") == "plain_1"

    names = st.text("ab,= ", min_size=1, max_size=3).filter(str.strip)

    @given(st.lists(st.dictionaries(names, names), min_size=2, max_size=2))
    @example([{"a": "x", "b": "y"}, {"a": "x,b=y"}])
    def test_different_tags_are_different_sensors(self, points):
        """As they come from a client's own writer, which escapes them."""
        first, second = points
        if any(
            text.endswith("\\") or "\\" in text for tags in (first, second) for pair in tags.items() for text in pair
        ):
            return
        lines = [
            Point.from_dict(
                {"measurement": "m", "tags": {**tags, "device": "d"}, "fields": {"f": 1.0}}
            ).to_line_protocol()
            for tags in (first, second)
        ]
        assert (series(lines[0]) == series(lines[1])) == (first == second)


class TestOwnDevice:
    """With the token of a device."""

    PUMP = Sender("orgA", "pump")

    @pytest.mark.parametrize(
        ("line", "sensor"),
        [
            ("m f=1", "m.f"),
            ("m,device=pump f=1", "m.f"),
            ("m,host=pump f=1", "m.f"),
            ("m,host=other f=1", "m.f,host=other"),
        ],
    )
    def test_everything_is_its_own(self, line, sensor):
        assert read(line, self.PUMP).readings == [Reading("pump", sensor, 1.0, NOW)]

    def test_another_device_is_forbidden(self):
        with pytest.raises(Rejected) as caught:
            read("m,device=fan f=1", self.PUMP)
        assert caught.value.kind == "forbidden"


class TestFields:
    @pytest.mark.parametrize(
        ("text", "value"),
        [
            ("1", 1.0),
            ("-1.5e3", -1500.0),
            (".5", 0.5),
            ("5.", 5.0),
            ("+1", 1.0),
            ("12i", 12.0),
            ("-9223372036854775808i", -9223372036854775808.0),
            ("18446744073709551615u", 18446744073709551615.0),
            *((text, True) for text in ("t", "T", "true", "True", "TRUE")),
            *((text, False) for text in ("f", "F", "false", "False", "FALSE")),
            ('"on"', "on"),
            ('""', ""),
            (r'"a \"b\" \\ c\d"', r'a "b" \ c\d'),
            ('"a, b=c i"', "a, b=c i"),
        ],
    )
    def test_kinds_of_values(self, text, value):
        found = one(f"m,device=d f={text} 1").value
        assert found == value
        assert type(found) is type(value)

    @pytest.mark.parametrize(
        "text",
        [
            "NaN",
            "inf",
            "1e999",
            "1x",
            "1.5i",
            "-1u",
            "9223372036854775808i",
            "18446744073709551616u",
            "i",
            "truE",
            "1_0",
        ],
    )
    def test_what_is_no_value_leaves_the_other_lines(self, text):
        decoded = read(f"m,device=d f=1\nm,device=d f={text}\nm,device=d f=2")
        assert [reading.value for reading in decoded.readings] == [1.0, 2.0]
        assert [(bad.faults[0].index, bad.is_malformed) for bad in decoded.bad] == [(1, True)]

    def test_several_fields_share_a_time(self):
        decoded = read('m,device=d a=1,b="x,y",c\\,d=t 5000')
        assert [(reading.sensor, reading.value, reading.at) for reading in decoded.readings] == [
            ("m.a", 1.0, 5),
            ("m.b", "x,y", 5),
            (r"m.c\,d", True, 5),
        ]

    def test_a_text_may_hold_a_line_end(self):
        decoded = read('m,device=d f="a\nb" 1000\nm,device=d f=2 2000')
        assert [reading.value for reading in decoded.readings] == ["a\nb", 2.0]

    def test_a_text_that_is_too_long_is_bad(self):
        (bad,) = read('m,device=d f="%s"' % ("x" * 257)).bad
        assert (bad.faults[0].field, bad.is_malformed) == ("m.f", False)


class TestTimes:
    @pytest.mark.parametrize(
        ("precision", "text", "at"),
        [
            ("ns", "1700000000123456789", 1_700_000_000_123_456),
            ("n", "1000", 1),
            ("us", "17", 17),
            ("u", "17", 17),
            ("ms", "17", 17_000),
            ("s", "17", 17_000_000),
            ("m", "17", 1_020_000_000),
            ("h", "17", 61_200_000_000),
        ],
    )
    def test_precisions(self, precision, text, at):
        assert one(f"m,device=d f=1 {text}", precision=precision).at == at

    def test_without_one_it_is_that_of_the_arrival(self):
        assert one("m,device=d f=1").at == NOW

    @pytest.mark.parametrize("text", ["-1000", "1.5", "x", "9223372036854775808", "9" * 30])
    def test_wrong_ones_are_bad(self, text):
        assert len(read(f"m,device=d f=1 {text}").bad) == 1

    def test_far_ahead_in_hours(self):
        assert read(f"m,device=d f=1 {2**62}", precision="h").bad[0].faults[0].field == "time"


class TestLines:
    def test_comments_and_empty_lines_are_none(self):
        text = "# a b=1\n\n  \nm,device=d f=1\r\n\t# x\n  m,device=d f=2  \n"
        assert [reading.value for reading in read(text).readings] == [1.0, 2.0]

    @pytest.mark.parametrize(
        ("line", "said"),
        [
            ("m", "missing fields"),
            ("m,device=d", "missing fields"),
            (",device=d f=1", "missing measurement"),
            ("m,device f=1", "missing tag value"),
            ("m,device= f=1", "missing tag value"),
            ("m f", "invalid field format"),
            ("m f=", "invalid field format"),
            ("m =1", "invalid field format"),
            ('m f="x', "unbalanced quotes"),
            ("m f=1 2 3", "invalid field format"),
            ('m f="a"b', "invalid field format"),
            ("m f=1,", "invalid field format"),
        ],
    )
    def test_what_is_no_line_is_said(self, line, said):
        decoded = read(f"m,device=d f=1\n{line}")
        assert len(decoded.readings) == 1
        assert [bad.faults[0].detail for bad in decoded.bad] == [said]
        assert decoded.bad[0].source == line

    def test_what_is_no_text_is_malformed(self):
        with pytest.raises(Rejected) as caught:
            read(b"m f=1\n\xff f=1")
        assert caught.value.kind == "malformed"


@given(st.text(st.sampled_from('m,= \\"\n#1ti-.e\r\t'), max_size=40), st.sampled_from(sorted(PRECISIONS)))
@example('a b="' * 50, "ns")
@example("a,b=" * 2_000 + " ", "ns")
@example('a b="\\"\n' * 2_000, "s")
def test_whatever_comes_is_admitted_or_bad(text, precision):
    try:
        decoded = read(text, precision=precision)
    except Rejected as error:
        refusal = error
        assert refusal.kind == "invalid"
    else:
        for reading in decoded.readings:
            assert identifier_fault(reading.device_id) is None
            assert 0 <= reading.at <= NOW + 86_400_000_000


plain = st.text("abz ,=", min_size=1, max_size=5).filter(lambda text: text.strip() == text)


@given(
    st.dictionaries(plain, plain, max_size=3),
    st.dictionaries(
        plain,
        st.booleans()
        | st.integers(-(2**53), 2**53)
        | st.floats(allow_nan=False, allow_infinity=False)
        | st.text('ab"\\ ,=', max_size=6),
        min_size=1,
        max_size=4,
    ),
    st.integers(0, NOW),
)
def test_what_a_client_writes_comes_back(tags, fields, at):
    given_tags = {**tags, "device": "d"}
    point = Point.from_dict(
        {"measurement": "m", "tags": given_tags, "fields": fields, "time": at}, write_precision="us"
    )
    decoded = read(point.to_line_protocol(precision="us"), precision="us")
    assert decoded.bad == []
    assert sorted(((reading.at, reading.device_id, reading.value) for reading in decoded.readings), key=repr) == sorted(
        ((at, "d", float(value) if type(value) is int else value) for value in fields.values()), key=repr
    )

"""Lines that our own decoder, which reads what clients of InfluxDB write, reads back unchanged."""

from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from iotplatform.adapters.influx.lines import FIRST_US, LAST_US, Heads, Unwritable, add_lines, decode_name, encode_name
from iotplatform.domain.payloads.line_protocol import _escape_tag, read_lines
from iotplatform.domain.reading import Reading

sensors = st.one_of(
    st.text(st.characters(codec="utf-8", exclude_categories=["Cc"]), min_size=1, max_size=40),
    st.text('\\%25C,= "', min_size=1, max_size=12),
)
values = st.one_of(
    st.floats(allow_nan=False, allow_infinity=False),
    st.booleans(),
    st.text(st.characters(codec="utf-8"), max_size=40),
    st.text('\\",= \n', max_size=8),
)


def lines_of(*readings):
    lines = {}
    add_lines(lines, Heads(), 7, "acme", [(reading, position) for position, reading in enumerate(readings, 1)])
    return "\n".join(lines.values())


@given(sensors)
@example("\\")
@example("%5C")
@example("%%25\\5C")
def test_names_come_back(name):
    assert decode_name(encode_name(name)) == name
    assert "\\" not in encode_name(name)


@given(sensors, sensors)
def test_different_names_stay_different(name, other):
    assert (encode_name(name) == encode_name(other)) == (name == other)


@given(st.lists(st.tuples(sensors, values, st.integers(0, LAST_US // 1_000)), min_size=1, max_size=5))
def test_lines_are_read_back_by_our_decoder(readings):
    given_readings = [Reading("d-1", sensor, value, at) for sensor, value, at in readings]
    last = {(one.sensor, one.at): (one.value, position) for position, one in enumerate(given_readings, 1)}

    drafts = list(read_lines(lines_of(*given_readings).encode(), 0, None, "us"))

    assert len(drafts) == len(last)
    for draft, ((sensor, at), (value, position)) in zip(drafts, last.items(), strict=True):
        assert not draft.is_unreadable
        assert (draft.device_id, draft.at) == ("d-1", at)
        suffix = f",epoch=7,organization=acme,sensor={_escape_tag(encode_name(sensor))}"
        kind = 2 if isinstance(value, str) else 1 if isinstance(value, bool) else 0
        field = "text" if kind == 2 else "value"
        assert draft.values == {
            f"readings.kind{suffix}": float(kind),
            f"readings.position{suffix}": float(position),
            f"readings.{field}{suffix}": value if kind == 2 else float(value),
        }


@pytest.mark.parametrize(
    "reading",
    [
        Reading("d", "line\nbreak", 1.0, 0),
        Reading("d", "", 1.0, 0),
        Reading("d", "s\x00", 1.0, 0),
        Reading("d", "s", "\ud800", 0),
        Reading("d", "\ud800", 1.0, 0),
        Reading("d", "s", 1.0, FIRST_US - 1),
        Reading("d", "s", 1.0, LAST_US + 1),
    ],
)
def test_what_has_no_place_is_told_before_anything_is_sent(reading):
    with pytest.raises(Unwritable):
        lines_of(reading)

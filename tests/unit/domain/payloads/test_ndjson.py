from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from iotplatform.domain.payloads.admission import Sender
from iotplatform.domain.payloads.formats import BY_MEDIA_TYPE, JSON, decode
from iotplatform.errors import Rejected

NOW = 1_767_225_600_000_000
NDJSON = BY_MEDIA_TYPE["application/x-ndjson"]


def read(body, known=NDJSON):
    return decode(known, body, arrived_at=NOW, sender=Sender("orgA", "pump"))


def test_a_line_is_an_element_and_empty_lines_are_none():
    decoded = read(b'{"a":1}\n\r\n  \n{"sensor_name":"b","value":2,"timestamp":1}\r\n{"values":{"c":3}}')
    assert [(reading.sensor, reading.value) for reading in decoded.readings] == [("a", 1.0), ("b", 2.0), ("c", 3.0)]


def test_a_line_that_is_none_leaves_the_others():
    decoded = read(b'{"a":1}\n{"a":\n[1]\n{"a":2}\n')
    assert [reading.value for reading in decoded.readings] == [1.0, 2.0]
    assert [(bad.faults[0].index, bad.is_malformed) for bad in decoded.bad] == [(1, True), (2, False)]
    with pytest.raises(Rejected) as caught:
        decoded.require_all()
    assert (caught.value.kind, [fault.index for fault in caught.value.faults]) == ("malformed", [1])


@pytest.mark.parametrize("body", [b"", b"\n\n", b" "])
def test_nothing_is_no_reading(body):
    with pytest.raises(Rejected) as caught:
        read(body)
    assert caught.value.kind == "invalid"


@given(
    st.lists(
        st.dictionaries(st.sampled_from("abc"), st.booleans() | st.integers(-9, 9) | st.none(), min_size=1), min_size=1
    )
)
def test_lines_say_what_an_array_says(elements):
    lines = read(b"\n".join(json.dumps(element).encode() for element in elements))
    assert lines == read(json.dumps(elements).encode(), JSON)

"""Devices in CSV: what spreadsheets write is read, and what is wrong is said with its line."""

from __future__ import annotations

import csv
import io

import pytest
from hypothesis import given
from hypothesis import strategies as st

from iotplatform.domain.device_csv import MAX_ROWS, read_devices
from iotplatform.errors import Rejected


def refused(body):
    with pytest.raises(Rejected) as caught:
        read_devices(body)
    return caught.value


def test_rows_become_fields():
    rows = read_devices(
        b"\xef\xbb\xbfid,name,tags,metadata.site,metadata.floor\r\n"
        b'pump-1,"Pump, main",hall; north ;,Berlin,2\r\n'
        b"\r\n"
        b"pump-2,,,,\r\n"
    )
    assert [(row.line, row.fields, row.faults) for row in rows] == [
        (
            2,
            {
                "id": "pump-1",
                "name": "Pump, main",
                "tags": ["hall", "north"],
                "metadata": {"site": "Berlin", "floor": "2"},
            },
            [],
        ),
        (4, {"id": "pump-2", "name": "pump-2", "metadata": {}}, []),
    ]


def test_a_row_of_another_length_is_wrong_and_the_others_are_not():
    rows = read_devices(b"id,name\na,A\nb\nc,C,x\nd,D\n")
    assert [bool(row.faults) for row in rows] == [False, True, True, False]


@pytest.mark.parametrize(
    ("header", "field"),
    [
        (b"id,colour", "colour"),
        (b"id,metadata.", "metadata."),
        (b"id,id", "id"),
        (b"tags", None),
        (b"", None),
        (b"id;name", "id;name"),
    ],
)
def test_columns_that_are_not_known_are_named(header, field):
    error = refused(header + b"\na,b\n")
    assert error.kind == "invalid"
    assert field in [fault.field for fault in error.faults]


@pytest.mark.parametrize("body", [b"\xff", b'id\n"a', b'id\n"a"b\n', b"id\na\x00\n"])
def test_what_is_no_csv_is_malformed(body):
    assert refused(body).kind == "malformed"


def test_the_number_of_rows_is_bounded():
    assert len(read_devices(b"id\n" + b"a\n" * MAX_ROWS)) == MAX_ROWS
    assert refused(b"id\n" + b"a\n" * (MAX_ROWS + 1)).kind == "invalid"
    assert refused(b"id\n\n").kind == "invalid"


@given(st.binary(max_size=80))
def test_arbitrary_bytes_are_rows_or_refused(body):
    try:
        rows = read_devices(b"id,name\n" + body)
    except Rejected:
        return
    assert rows


cells = st.text(st.characters(exclude_categories=["Cs", "Cc"]), max_size=6)


@given(st.lists(st.tuples(cells, cells), min_size=1, max_size=5))
def test_what_a_spreadsheet_writes_comes_back(table):
    written = io.StringIO()
    csv.writer(written).writerows([("id", "name"), *table])
    kept = [(first.strip(), second.strip()) for first, second in table if first.strip() or second.strip()]
    if not kept:
        return
    rows = read_devices(written.getvalue().encode())
    assert [(row.fields.get("id", ""), row.fields["name"] or "") for row in rows] == [
        (first, second or first) for first, second in kept
    ]

"""Devices in a CSV file: its rows as the fields of devices, each with its line, or what is wrong with it."""

from __future__ import annotations

import csv
import io
from typing import Any, Final

import msgspec

from iotplatform.errors import Fault, Rejected

MAX_ROWS: Final = 5_000
MAX_COLUMNS: Final = 200
COLUMNS: Final = ("id", "name", "tags")
METADATA: Final = "metadata."
TAG_SEPARATOR: Final = ";"


class CsvRow(msgspec.Struct):
    """`fields` are those of a device; `line` is where the row ends in the file, whose first line is 1."""

    line: int
    fields: dict[str, Any]
    faults: list[Fault] = msgspec.field(default_factory=list)


def read_devices(body: bytes) -> list[CsvRow]:
    """Raises:
    Rejected: `malformed` when it is no CSV in UTF-8; `invalid` when its columns are not known, or there are too
        many rows or none.
    """
    try:
        text = body.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise Rejected("malformed", f"the body is not UTF-8: {error}") from None
    if "\x00" in text:
        raise Rejected("malformed", "the body is no CSV: it contains the character NUL")
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    try:
        header = next(reader, [])
        _check_header(header)
        rows = []
        for cells in reader:
            if any(cell.strip() for cell in cells):
                rows.append(_row(header, cells, reader.line_num))
                if len(rows) > MAX_ROWS:
                    raise _invalid(f"must hold at most {MAX_ROWS} rows")
    except csv.Error as error:
        raise Rejected("malformed", f"the body is no CSV: line {reader.line_num}: {error}") from None
    if not rows:
        raise _invalid("must hold at least one row below its header")
    return rows


def _check_header(header: list[str]) -> None:
    if len(header) > MAX_COLUMNS:
        raise _invalid(f"must have at most {MAX_COLUMNS} columns")
    faults = []
    for name in header:
        if name not in COLUMNS and (not name.startswith(METADATA) or len(name) == len(METADATA)):
            faults.append(Fault("is no column: there are id, name, tags and metadata.<name>", field=name[:80]))
        elif header.count(name) > 1:
            faults.append(Fault("stands there more than once", field=name[:80]))
    if not faults and "id" not in header and "name" not in header:
        faults.append(Fault("needs a column id or name"))
    if faults:
        raise Rejected("invalid", "the first line must name the columns", faults=tuple(faults))


def _row(header: list[str], cells: list[str], line: int) -> CsvRow:
    row = CsvRow(line, {"metadata": {}})
    if len(cells) != len(header):
        row.faults.append(Fault(f"has {len(cells)} cells, and the header {len(header)}"))
        return row
    for name, raw in zip(header, cells, strict=True):
        cell = raw.strip()
        if not cell:
            continue
        if name == "tags":
            row.fields["tags"] = [tag.strip() for tag in cell.split(TAG_SEPARATOR) if tag.strip()]
        elif name.startswith(METADATA):
            row.fields["metadata"][name.removeprefix(METADATA)] = cell
        else:
            row.fields[name] = cell
    row.fields.setdefault("name", row.fields.get("id"))
    return row


def _invalid(detail: str) -> Rejected:
    return Rejected("invalid", "the file can't be taken", faults=(Fault(detail),))

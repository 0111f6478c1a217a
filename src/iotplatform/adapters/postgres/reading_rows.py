"""Readings to rows in PostgreSQL's binary COPY format.

The driver would encode each column of each row by a codec of its own; here a row is one call of `struct`, which is what
most of storing costs on our side. The format: a signature, then for each row the number of its columns, and for each
column its length (-1 for NULL) and its bytes, all big-endian; in the end -1.
"""

from __future__ import annotations

import asyncio
import struct
from collections.abc import AsyncIterator, Iterable, Mapping
from itertools import islice
from typing import Final

from iotplatform.domain.reading import Reading

ROWS_IN_A_CHUNK: Final = 4_000
NUMBER, BOOLEAN, TEXT = 0, 1, 2
COLUMNS: Final = ("series_id", "kind", "at", "value", "position", "text")

# PostgreSQL counts microseconds from 2000-01-01.
PG_EPOCH_US: Final = 946_684_800_000_000

_HEAD: Final = b"PGCOPY\n\xff\r\n\x00" + struct.pack(">ii", 0, 0)
_END: Final = struct.pack(">h", -1)
_number: Final = struct.Struct(">hiiihiqidiqi").pack
_text: Final = struct.Struct(">hiiihiqiiqi").pack

RowKey = tuple[int, int]
Rows = dict[RowKey, bytes]


class Unpackable(ValueError):
    """A time or a position that PostgreSQL has no place for."""


def add_rows(
    rows: Rows, readings: Iterable[tuple[Reading, int]], series: Mapping[tuple[str, str], int]
) -> set[tuple[str, str]]:
    """Put the rows of readings (with their positions) into `rows`, and return the series that `series` does not know.

    There is one row for each series and time, the last in stream order: an upsert must not meet a key twice.

    Raises:
        Unpackable: PostgreSQL can't hold one of the times.
    """
    unknown: set[tuple[str, str]] = set()
    find = series.get
    try:
        for reading, position in readings:
            series_id = find((reading.device_id, reading.sensor))
            if series_id is None:
                unknown.add((reading.device_id, reading.sensor))
                continue
            at = reading.at - PG_EPOCH_US
            value = reading.value
            if isinstance(value, str):
                encoded = value.encode()
                rows[series_id, at] = _text(6, 4, series_id, 2, TEXT, 8, at, -1, 8, position, len(encoded)) + encoded
            else:
                kind = BOOLEAN if value is True or value is False else NUMBER
                rows[series_id, at] = _number(6, 4, series_id, 2, kind, 8, at, 8, value, 8, position, -1)
    except (struct.error, UnicodeEncodeError) as error:
        raise Unpackable(str(error)) from error
    return unknown


async def chunks_of(rows: Rows) -> AsyncIterator[bytes]:
    """What `COPY ... FROM STDIN (FORMAT binary)` takes."""
    yield _HEAD
    packed = iter(rows.values())
    while chunk := b"".join(islice(packed, ROWS_IN_A_CHUNK)):
        yield chunk
        await asyncio.sleep(0)
    yield _END

"""Stored readings in masses: copied out in PostgreSQL's binary format, and unpacked by the thousand."""

from __future__ import annotations

import struct
from bisect import bisect_right
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Final, Literal

import asyncpg
import msgspec

from iotplatform.adapters.postgres.connection import CONNECT_TIMEOUT_S
from iotplatform.adapters.postgres.errors import translated
from iotplatform.adapters.postgres.reading_rows import PG_EPOCH_US, TEXT
from iotplatform.domain.timestamps import to_datetime

Order = Literal["time", "stream"]
Points = list[tuple[int, float]]

# PostgreSQL's signature, flags and extension; then rows of the same length, because no column can be NULL: the number
# of columns, and for each its length before it.
_HEAD_BYTES: Final = 19
_ROW: Final = struct.Struct(">2x 4xi 4xq 4xd")
_POINT: Final = struct.Struct(">2x 4x4x 4xq 4xd")
_SERIES: Final = struct.Struct(">2x 4xi")
SERIES_AT_ONCE: Final = 2_000

_SERIES_OF: Final = """
SELECT s.id, s.device_id, s.sensor, coalesce(d.tags, '{}') AS tags
FROM series s LEFT JOIN devices d ON d.epoch = s.epoch AND d.id = s.device_id
WHERE s.epoch = $1 AND (cardinality($2::text[]) = 0 OR s.device_id = ANY($2))
ORDER BY s.id
"""
# A text has no value, and rules that look at values don't see it; to one that listens for silence it is a reading.
_READINGS: Final = """
SELECT series_id, at, coalesce(value, 0) FROM readings
WHERE series_id = ANY($1::int[]) AND at >= $2 AND at < $3 AND kind < $4 ORDER BY series_id, {order}
"""
_ORDERS: Final = {"time": "at", "stream": "position, at"}


class SeriesRow(msgspec.Struct, frozen=True):
    id: int
    device_id: str
    sensor: str
    tags: frozenset[str]


class History:
    """One connection that reads in masses; whoever uses it has a process of its own for that."""

    def __init__(self, connection: asyncpg.Connection[asyncpg.Record]) -> None:
        self._connection = connection

    @classmethod
    @asynccontextmanager
    async def open(cls, url: str, deadline_s: float) -> AsyncIterator[History]:
        """The server itself gives up after `deadline_s`, should nobody be there any more to tell it."""
        settings = {
            "default_transaction_read_only": "on",
            "statement_timeout": f"{int(deadline_s * 1_000)}",
            "work_mem": "64MB",
            "jit": "off",
        }
        with translated():
            connection = await asyncpg.connect(url, timeout=CONNECT_TIMEOUT_S, server_settings=settings)
            try:
                yield cls(connection)
            finally:
                connection.terminate()

    async def series(self, epoch: int, device_ids: Sequence[str]) -> list[SeriesRow]:
        """Of these devices, or of all; with the tags that their devices have now."""
        rows = await self._connection.fetch(_SERIES_OF, epoch, list(device_ids))
        return [SeriesRow(row["id"], row["device_id"], row["sensor"], frozenset(row["tags"])) for row in rows]

    async def copy(
        self,
        series_ids: Sequence[int],
        since: int,
        until: int,
        take: Callable[[int, Points], None],
        *,
        order: Order = "time",
        texts: bool = False,
    ) -> None:
        """Give `take` the readings of [since, until), series after series, each in order and in any number of parts.

        `texts`: readings that are text come too, as 0.
        """
        query = _READINGS.format(order=_ORDERS[order])
        bounds = (to_datetime(since), to_datetime(until), TEXT + 1 if texts else TEXT)
        for start in range(0, len(series_ids), SERIES_AT_ONCE):
            unpacker = Unpacker(take)
            await self._connection.copy_from_query(
                query, list(series_ids[start : start + SERIES_AT_ONCE]), *bounds, output=unpacker, format="binary"
            )


class Unpacker:
    """What `COPY ... TO STDOUT (FORMAT binary)` gives, in parts that end anywhere."""

    def __init__(self, take: Callable[[int, Points], None]) -> None:
        self._take = take
        self._rest = b""
        self._skip = _HEAD_BYTES

    async def __call__(self, data: bytes) -> None:
        self.feed(data)

    def feed(self, data: bytes) -> None:
        held = self._rest + data
        if self._skip:
            if len(held) < self._skip:
                self._rest = held
                return
            held, self._skip = held[self._skip :], 0
        # The two bytes of the end are never a whole row.
        count = len(held) // _ROW.size
        self._rest = held[count * _ROW.size :]
        view = memoryview(held)

        def series_at(row: int) -> int:
            found: tuple[int] = _SERIES.unpack_from(held, row * _ROW.size)
            return found[0]

        first = 0
        while first < count:
            series_id = series_at(first)
            end = count
            if series_at(count - 1) != series_id:
                end = bisect_right(range(count), series_id, lo=first, key=series_at)
            part = view[first * _ROW.size : end * _ROW.size]
            self._take(series_id, [(at + PG_EPOCH_US, value) for at, value in _POINT.iter_unpack(part)])
            first = end

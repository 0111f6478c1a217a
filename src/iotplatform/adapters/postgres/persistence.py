"""Storing readings: rows, ledger counts and the position of each partition, in one transaction.

Rows go by COPY into a staging table and from there by upsert; a transaction carries the blocks of many partitions. The
position is compared and set, so one that has lost its partition writes nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, Self

import asyncpg
import msgspec

from iotplatform.adapters.postgres.connection import COMMAND_TIMEOUT_S, CONNECT_TIMEOUT_S
from iotplatform.adapters.postgres.errors import translated
from iotplatform.domain.reading import Reading, Value
from iotplatform.errors import PlatformError

POOL_SIZE: Final = 3
MAX_KNOWN_SERIES: Final = 500_000
NUMBER, BOOLEAN, TEXT = 0, 1, 2

# PostgreSQL counts microseconds from 2000-01-01.
_PG_EPOCH_US: Final = 946_684_800_000_000

_STAGING: Final = """
CREATE TEMP TABLE staging (
    series_id int, kind smallint, at timestamptz, value double precision, position bigint, text text
) ON COMMIT DELETE ROWS
"""
_STAGING_COLUMNS: Final = ("series_id", "kind", "at", "value", "position", "text")

_UPSERT: Final = """
INSERT INTO readings AS stored (series_id, kind, at, value, position, text)
SELECT series_id, kind, at, value, position, text FROM staging
ON CONFLICT (series_id, at) DO UPDATE
    SET kind = excluded.kind, value = excluded.value, position = excluded.position, text = excluded.text
    WHERE excluded.position >= stored.position
"""

_MOVE: Final = """
UPDATE partitions p
SET position = w.after, stored = p.stored + w.stored, dead_lettered = p.dead_lettered + w.dead_lettered
FROM unnest($1::bigint[], $2::int[], $3::bigint[], $4::bigint[], $5::bigint[], $6::bigint[])
    AS w(epoch, number, before, after, stored, dead_lettered)
WHERE p.epoch = w.epoch AND p.number = w.number AND p.position = w.before
RETURNING p.epoch, p.number
"""

_LANES: Final = """
INSERT INTO lanes (epoch, partition, id, source, last_number, total, seen_at)
SELECT *, now() FROM unnest($1::bigint[], $2::int[], $3::text[], $4::text[], $5::bigint[], $6::bigint[])
ON CONFLICT (epoch, partition, id) DO UPDATE
    SET last_number = excluded.last_number, total = excluded.total, seen_at = excluded.seen_at
"""

_ADD_SERIES: Final = """
INSERT INTO series (epoch, device_id, sensor)
SELECT DISTINCT w.epoch, w.device_id, w.sensor
FROM unnest($1::bigint[], $2::text[], $3::text[]) AS w(epoch, device_id, sensor)
JOIN organizations o ON o.epoch = w.epoch
ON CONFLICT DO NOTHING
"""

_FIND_SERIES: Final = """
SELECT s.epoch, s.device_id, s.sensor, s.id FROM series s
JOIN unnest($1::bigint[], $2::text[], $3::text[]) AS w(epoch, device_id, sensor)
    ON s.epoch = w.epoch AND s.device_id = w.device_id AND s.sensor = w.sensor
"""

_NEWEST: Final = """
SELECT s.device_id, s.sensor, r.kind, r.at, r.value, r.position, r.text
FROM series s CROSS JOIN LATERAL (
    SELECT * FROM readings WHERE series_id = s.id ORDER BY at DESC LIMIT 1
) r
WHERE s.epoch = $1
"""

SeriesKey = tuple[int, str, str]
_Row = tuple[int, int, int, float | None, int, str | None]


class LaneMark(msgspec.Struct, frozen=True):
    """How far a lane has come, by the last of its blocks that was handled."""

    lane: str
    source: str
    number: int
    total: int


class PartitionWork(msgspec.Struct):
    """What the blocks of one partition between two positions amount to.

    `readings` are in stream order, each with the position of its block.
    """

    epoch: int
    partition: int
    before: int
    after: int
    readings: list[tuple[Reading, int]] = msgspec.field(default_factory=list)
    dead_lettered: int = 0
    lanes: dict[str, LaneMark] = msgspec.field(default_factory=dict)


class PositionMoved(PlatformError):
    """Somebody else has moved these partitions (epoch, number), or they exist no longer; nothing was stored."""

    def __init__(self, partitions: set[tuple[int, int]]) -> None:
        super().__init__(f"the position of {sorted(partitions)} was moved by another process")
        self.partitions = partitions


class UnstorableData(PlatformError):
    """PostgreSQL refuses the data itself; trying again changes nothing. Nothing was stored."""


class ReadingStore:
    def __init__(self, pool: asyncpg.Pool[asyncpg.Record]) -> None:
        self._pool = pool
        self._series: dict[SeriesKey, int] = {}

    @classmethod
    async def open(cls, url: str) -> Self:
        with translated():
            pool = await asyncpg.create_pool(
                url,
                min_size=0,
                max_size=POOL_SIZE,
                timeout=CONNECT_TIMEOUT_S,
                command_timeout=COMMAND_TIMEOUT_S,
                init=_prepare,
            )
        return cls(pool)

    async def close(self) -> None:
        await self._pool.close()

    async def position(self, epoch: int, partition: int) -> int | None:
        """None when there is no such partition (any more)."""
        with translated():
            position: int | None = await self._pool.fetchval(
                "SELECT position FROM partitions WHERE epoch = $1 AND number = $2", epoch, partition
            )
        return position

    async def store(self, work: Sequence[PartitionWork]) -> None:
        """All of it in one transaction.

        Raises:
            PositionMoved: at least one partition is not where `before` says.
            UnstorableData: PostgreSQL refuses some of the values.
            Unavailable: PostgreSQL is away; whether it was stored, the positions tell.
        """
        with translated():
            try:
                await self._store(work)
            except (asyncpg.DataError, UnicodeEncodeError) as error:
                raise UnstorableData(str(error)) from error
            except asyncpg.PostgresError as error:
                if str(error.sqlstate).startswith("22"):
                    raise UnstorableData(str(error)) from error
                raise

    async def is_storable(self, readings: Sequence[tuple[Reading, int]], epoch: int) -> bool:
        """Whether PostgreSQL takes these rows: tried for real, and rolled back."""
        with translated():
            try:
                ids = await self._series_ids(_keys(epoch, readings))
                async with self._pool.acquire() as connection:
                    transaction = connection.transaction()
                    await transaction.start()
                    try:
                        await _write(connection, _rows(epoch, readings, ids))
                    finally:
                        await transaction.rollback()
            except (asyncpg.DataError, UnicodeEncodeError):
                return False
            except asyncpg.PostgresError as error:
                if str(error.sqlstate).startswith("22"):
                    return False
                raise
        return True

    async def newest(self, epoch: int) -> dict[tuple[str, str], tuple[int, int, Value]]:
        """For every series its newest reading: (device, sensor) → (time, position, value)."""
        with translated():
            rows = await self._pool.fetch(_NEWEST, epoch)
        return {(row["device_id"], row["sensor"]): (row["at"], row["position"], value_of(row)) for row in rows}

    async def _store(self, work: Sequence[PartitionWork]) -> None:
        keys: set[SeriesKey] = set()
        for part in work:
            keys.update(_keys(part.epoch, part.readings))
        ids = await self._series_ids(keys)
        rows: list[_Row] = []
        for part in work:
            rows += _rows(part.epoch, part.readings, ids)
        async with self._pool.acquire() as connection, connection.transaction():
            moved = await connection.fetch(
                _MOVE,
                [part.epoch for part in work],
                [part.partition for part in work],
                [part.before for part in work],
                [part.after for part in work],
                [len(part.readings) for part in work],
                [part.dead_lettered for part in work],
            )
            if len(moved) != len(work):
                missing = {(part.epoch, part.partition) for part in work} - {(row[0], row[1]) for row in moved}
                raise PositionMoved(missing)
            marks = [(part, mark) for part in work for mark in part.lanes.values()]
            if marks:
                await connection.execute(
                    _LANES,
                    [part.epoch for part, _ in marks],
                    [part.partition for part, _ in marks],
                    [mark.lane for _, mark in marks],
                    [mark.source for _, mark in marks],
                    [mark.number for _, mark in marks],
                    [mark.total for _, mark in marks],
                )
            if rows:
                await _write(connection, rows)

    async def _series_ids(self, keys: set[SeriesKey]) -> dict[SeriesKey, int]:
        known = self._series
        unknown = [key for key in keys if key not in known]
        if unknown:
            columns = [[key[part] for key in unknown] for part in range(3)]
            # In a transaction of its own: a series without readings harms nobody, and no commit waits for it.
            async with self._pool.acquire() as connection:
                await connection.execute(_ADD_SERIES, *columns)
                found = await connection.fetch(_FIND_SERIES, *columns)
            if len(known) + len(found) > MAX_KNOWN_SERIES:
                known.clear()
                return await self._series_ids(keys)
            known.update({(row[0], row[1], row[2]): row[3] for row in found})
        return known


def _keys(epoch: int, readings: Sequence[tuple[Reading, int]]) -> set[SeriesKey]:
    return {(epoch, reading.device_id, reading.sensor) for reading, _ in readings}


def _rows(epoch: int, readings: Sequence[tuple[Reading, int]], ids: dict[SeriesKey, int]) -> list[_Row]:
    """One row for each series and time, the last in stream order: an upsert must not meet a key twice."""
    rows: dict[tuple[int, int], _Row] = {}
    for reading, position in readings:
        series_id = ids.get((epoch, reading.device_id, reading.sensor))
        if series_id is None:  # the organization was deleted meanwhile; the compared position will say so
            continue
        value = reading.value
        if isinstance(value, str):
            rows[series_id, reading.at] = (series_id, TEXT, reading.at, None, position, value)
        elif isinstance(value, bool):
            rows[series_id, reading.at] = (series_id, BOOLEAN, reading.at, 1.0 if value else 0.0, position, None)
        else:
            rows[series_id, reading.at] = (series_id, NUMBER, reading.at, value, position, None)
    return list(rows.values())


async def _write(connection: asyncpg.pool.PoolConnectionProxy[asyncpg.Record], rows: list[_Row]) -> None:
    await connection.copy_records_to_table("staging", records=rows, columns=_STAGING_COLUMNS)
    await connection.execute(_UPSERT)


def value_of(row: asyncpg.Record) -> Value:
    """The value in a row with kind, value and text."""
    if row["kind"] == TEXT:
        return str(row["text"])
    return bool(row["value"]) if row["kind"] == BOOLEAN else float(row["value"])


async def _prepare(connection: asyncpg.Connection[asyncpg.Record]) -> None:
    # Microseconds in and out: making a datetime for each row would be a large part of the cost.
    await connection.set_type_codec(
        "timestamptz",
        schema="pg_catalog",
        format="tuple",
        encoder=lambda at: (at - _PG_EPOCH_US,),
        decoder=lambda packed: packed[0] + _PG_EPOCH_US,
    )
    await connection.execute(_STAGING)

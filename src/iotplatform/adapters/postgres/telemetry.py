"""The telemetry store in PostgreSQL, as it is read and as it forgets. `persistence` writes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import asyncpg

from iotplatform.adapters.postgres.connection import Database
from iotplatform.adapters.postgres.errors import translated
from iotplatform.adapters.postgres.reading_rows import BOOLEAN, TEXT
from iotplatform.adapters.postgres.rollup_marks import CLOSING, mark_removed
from iotplatform.adapters.postgres.rollups import forget_rollups
from iotplatform.domain.explanation import SeenReading
from iotplatform.domain.reading import Reading, Value
from iotplatform.domain.telemetry import LastReadings, Newest, Place, SeriesKey, TelemetryRange
from iotplatform.domain.timestamps import to_datetime, to_microseconds

# Each series contributes no more than a page, and the index gives the series in order, so that a page of a large
# history reads about a page of rows.
_RANGE: Final = """
SELECT s.device_id, s.sensor, r.kind, r.at, r.value, r.text
FROM series s CROSS JOIN LATERAL (
    SELECT kind, at, value, text FROM readings
    WHERE series_id = s.id
        AND at >= $4 AND at < $5
        AND at > CASE WHEN s.device_id = $6 AND s.sensor = $7 THEN $8::timestamptz ELSE '-infinity' END
    ORDER BY at LIMIT $9
) r
WHERE s.epoch = $1
    AND (cardinality($2::text[]) = 0 OR s.device_id = ANY($2))
    AND (cardinality($3::text[]) = 0 OR s.sensor = ANY($3))
    AND (s.device_id, s.sensor) >= ($6::text, $7::text)
ORDER BY s.device_id, s.sensor, r.at
LIMIT $9
"""

# In the order that Redis has too, whatever the database's collation is: who answers may change between two pages.
_LATEST: Final = """
SELECT s.device_id, s.sensor, r.kind, r.at, r.value, r.text
FROM series s CROSS JOIN LATERAL (
    SELECT kind, at, value, text FROM readings WHERE series_id = s.id ORDER BY at DESC LIMIT 1
) r
WHERE s.epoch = $1 AND (cardinality($2::text[]) = 0 OR s.device_id = ANY($2))
    AND (s.device_id COLLATE "C", s.sensor COLLATE "C") > ($3::text, $4::text)
ORDER BY s.device_id COLLATE "C", s.sensor COLLATE "C"
LIMIT $5
"""

# By time, because that is how they are kept; nobody looks for those that came very late.
_LAST_READINGS: Final = """
SELECT s.sensor, r.at, r.kind, r.value, r.text, r.position
FROM (
    SELECT id, sensor FROM series
    WHERE epoch = $1 AND device_id = $2 AND (cardinality($3::text[]) = 0 OR sensor = ANY($3)) AND sensor > $4
    ORDER BY sensor LIMIT $5
) s LEFT JOIN LATERAL (
    SELECT at, kind, value, text, position FROM readings WHERE series_id = s.id ORDER BY at DESC LIMIT $6
) r ON true
ORDER BY s.sensor, r.position, r.at
"""

_NEWEST: Final = """
SELECT s.device_id, s.sensor, r.kind, r.at, r.value, r.position, r.text
FROM series s CROSS JOIN LATERAL (
    SELECT * FROM readings WHERE series_id = s.id ORDER BY at DESC LIMIT 1
) r
WHERE s.epoch = $1
"""

# A chunk is a transaction of a few milliseconds, whatever the organization has stored.
READINGS_AT_ONCE: Final = 10_000
SERIES_AT_ONCE: Final = 500

_SERIES: Final = "SELECT id FROM series WHERE epoch = $1 LIMIT $2"
# By key: a ctid names a row in one table only, and would name others' rows too once readings have partitions.
_DELETE_READINGS: Final = """
DELETE FROM readings r
USING (SELECT series_id, at FROM readings WHERE series_id = ANY($1::int[]) LIMIT $2) chosen
WHERE r.series_id = chosen.series_id AND r.at = chosen.at
"""
_DELETE_SERIES: Final = "DELETE FROM series WHERE id = ANY($1::int[])"
# The series stay: persistence knows them by number.
_DELETE_OF_DEVICE: Final = mark_removed("""
DELETE FROM readings r
USING (
    SELECT r.series_id, r.at FROM series s JOIN readings r ON r.series_id = s.id
    WHERE s.epoch = $1 AND s.device_id = $2 AND r.position <= $3 LIMIT $4
) chosen
WHERE r.series_id = chosen.series_id AND r.at = chosen.at AND r.position <= $3
RETURNING r.series_id, r.at
""")

_FIRST: Final = 0
# 9999-12-31: PostgreSQL's infinity has no datetime.
_LAST: Final = 253_402_214_400_000_000


class PostgresTelemetry:
    def __init__(self, database: Database) -> None:
        self._pool = database.pool

    async def page(self, epoch: int, limit: int, after: Place | None, wanted: TelemetryRange) -> list[Reading]:
        device_id, sensor, at = after or ("", "", _FIRST)
        with translated():
            rows = await self._pool.fetch(
                _RANGE,
                epoch,
                list(wanted.device_ids),
                list(wanted.sensors),
                to_datetime(_FIRST if wanted.since is None else wanted.since),
                to_datetime(_LAST if wanted.until is None else wanted.until),
                device_id,
                sensor,
                to_datetime(at),
                limit,
            )
        return [_reading(row) for row in rows]

    async def latest(self, epoch: int, device_ids: Sequence[str], after: SeriesKey | None, limit: int) -> list[Reading]:
        with translated():
            rows = await self._pool.fetch(_LATEST, epoch, list(device_ids), *(after or ("", "")), limit)
        return [_reading(row) for row in rows]

    async def newest(self, epoch: int) -> Newest:
        with translated():
            rows = await self._pool.fetch(_NEWEST, epoch)
        return {
            (row["device_id"], row["sensor"]): (to_microseconds(row["at"]), row["position"], value_of(row))
            for row in rows
        }

    async def last_readings(
        self, epoch: int, device_id: str, sensors: list[str], *, after: str, limit: int, readings: int
    ) -> list[LastReadings]:
        with translated():
            rows = await self._pool.fetch(_LAST_READINGS, epoch, device_id, sensors, after, limit, readings)
        found: dict[str, LastReadings] = {}
        for row in rows:
            series = found.setdefault(row["sensor"], LastReadings(row["sensor"], []))
            if row["at"] is not None:
                series.readings.append(SeenReading(to_microseconds(row["at"]), value_of(row), row["position"]))
        return list(found.values())

    async def remove_organization(self, epoch: int) -> None:
        """And with them the series that name them."""
        with translated():
            while ids := [row["id"] for row in await self._pool.fetch(_SERIES, epoch, SERIES_AT_ONCE)]:
                while _count(await self._pool.execute(_DELETE_READINGS, ids, READINGS_AT_ONCE)):
                    pass
                await forget_rollups(self._pool, ids)
                await self._pool.execute(_DELETE_SERIES, ids)

    async def remove_device(self, epoch: int, device_id: str, cut: int) -> None:
        with translated():
            async with self._pool.acquire() as connection:
                deleted = 1
                while deleted:
                    async with connection.transaction():
                        await connection.execute(CLOSING)
                        deleted = await connection.fetchval(_DELETE_OF_DEVICE, epoch, device_id, cut, READINGS_AT_ONCE)


def value_of(row: asyncpg.Record) -> Value:
    """The value in a row with kind, value and text."""
    if row["kind"] == TEXT:
        return str(row["text"])
    return bool(row["value"]) if row["kind"] == BOOLEAN else float(row["value"])


def _reading(row: asyncpg.Record) -> Reading:
    return Reading(row["device_id"], row["sensor"], value_of(row), to_microseconds(row["at"]))


def _count(status: str) -> int:
    return int(status.rpartition(" ")[2])

"""Readings, as they are read: ranges of series, and the latest value of each."""

from __future__ import annotations

from typing import Final

import asyncpg

from iotplatform.adapters.postgres.connection import Database
from iotplatform.adapters.postgres.errors import translated
from iotplatform.domain.reading import Reading, Value
from iotplatform.domain.telemetry.query import TelemetryQuery
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

_LATEST: Final = """
SELECT s.device_id, s.sensor, r.kind, r.at, r.value, r.text
FROM series s CROSS JOIN LATERAL (
    SELECT kind, at, value, text FROM readings WHERE series_id = s.id ORDER BY at DESC LIMIT 1
) r
WHERE s.epoch = $1 AND (cardinality($2::text[]) = 0 OR s.device_id = ANY($2))
ORDER BY s.device_id, s.sensor
"""

_FIRST: Final = 0
# 9999-12-31: PostgreSQL's infinity has no datetime.
_LAST: Final = 253_402_214_400_000_000

Place = tuple[str, str, int]


async def page(
    database: Database, epoch: int, limit: int, after: Place | None, wanted: TelemetryQuery
) -> list[Reading]:
    """By device, sensor and time; `after` is the place of the last one of the page before."""
    device_id, sensor, at = after or ("", "", _FIRST)
    with translated():
        rows = await database.pool.fetch(
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


async def latest(database: Database, epoch: int, device_ids: list[str]) -> list[Reading]:
    """The newest reading of every series (of some devices), by device and sensor."""
    with translated():
        return [_reading(row) for row in await database.pool.fetch(_LATEST, epoch, device_ids)]


def value_of(row: asyncpg.Record) -> Value:
    value: Value = row["text"] if row["kind"] == 2 else bool(row["value"]) if row["kind"] == 1 else row["value"]
    return value


def _reading(row: asyncpg.Record) -> Reading:
    return Reading(row["device_id"], row["sensor"], value_of(row), to_microseconds(row["at"]))

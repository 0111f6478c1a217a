"""The last readings of a device's series, and where in the stream each of them stood."""

from __future__ import annotations

from typing import Final

import msgspec

from iotplatform.adapters.postgres.connection import Database
from iotplatform.adapters.postgres.errors import translated
from iotplatform.adapters.postgres.telemetry import value_of
from iotplatform.domain.explanation import SeenReading
from iotplatform.domain.timestamps import to_microseconds

# By time, because that is how they are kept; nobody looks for those that came very late.
_FIND: Final = """
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


class LastReadings(msgspec.Struct, frozen=True):
    """In the order of the stream."""

    sensor: str
    readings: list[SeenReading]


async def find(
    database: Database, epoch: int, device_id: str, sensors: list[str], *, after: str, limit: int, readings: int
) -> list[LastReadings]:
    """By sensor, those beyond `after`; of each this many readings at most."""
    with translated():
        rows = await database.pool.fetch(_FIND, epoch, device_id, sensors, after, limit, readings)
    found: dict[str, LastReadings] = {}
    for row in rows:
        series = found.setdefault(row["sensor"], LastReadings(row["sensor"], []))
        if row["at"] is not None:
            series.readings.append(SeenReading(to_microseconds(row["at"]), value_of(row), row["position"]))
    return list(found.values())

"""The series of an organization, with the units that its devices tell."""

from __future__ import annotations

from typing import Final

import msgspec

from iotplatform.adapters.postgres.connection import Database
from iotplatform.adapters.postgres.errors import translated

_PAGE: Final = """
SELECT s.device_id, s.sensor, u.unit
FROM series s LEFT JOIN series_units u USING (epoch, device_id, sensor)
WHERE s.epoch = $1 AND (cardinality($2::text[]) = 0 OR s.device_id = ANY($2)) AND (s.device_id, s.sensor) > ($3, $4)
ORDER BY s.device_id, s.sensor LIMIT $5
"""


class Series(msgspec.Struct, frozen=True):
    device_id: str
    sensor: str
    unit: str | None


async def page(
    database: Database, epoch: int, limit: int, after: tuple[str, str] | None, device_ids: tuple[str, ...]
) -> list[Series]:
    """By device and sensor.

    Raises:
        Unavailable: PostgreSQL is away.
    """
    with translated():
        rows = await database.pool.fetch(_PAGE, epoch, list(device_ids), *(after or ("", "")), limit)
    return [Series(row["device_id"], row["sensor"], row["unit"]) for row in rows]

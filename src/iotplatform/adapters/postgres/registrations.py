"""What the door learns of devices by the way: that there is one, how it is called, the units of its sensors."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from iotplatform.adapters.postgres.connection import Database
from iotplatform.adapters.postgres.errors import missing, translated

# A name that the device itself was given by a person stays; one that was only its id gives way.
_DEVICES: Final = """
INSERT INTO devices AS known (epoch, id, name)
SELECT w.epoch, w.id, w.name FROM unnest($1::bigint[], $2::text[], $3::text[]) AS w(epoch, id, name)
JOIN organizations o ON o.epoch = w.epoch
ON CONFLICT (epoch, id) DO UPDATE SET name = excluded.name
    WHERE known.name = known.id AND excluded.name <> known.id
"""
_UNITS: Final = """
INSERT INTO series_units AS known (epoch, device_id, sensor, unit)
SELECT w.epoch, w.device_id, w.sensor, w.unit
FROM unnest($1::bigint[], $2::text[], $3::text[], $4::text[]) AS w(epoch, device_id, sensor, unit)
JOIN organizations o ON o.epoch = w.epoch
ON CONFLICT (epoch, device_id, sensor) DO UPDATE SET unit = excluded.unit WHERE known.unit <> excluded.unit
"""


async def register_devices(database: Database, rows: Sequence[tuple[int, str, str]]) -> None:
    """(epoch, id, name) of devices that may be unknown, each id once; not those of organizations that are gone.

    Raises:
        Rejected: an organization went just now; the same again leaves it out.
        Unavailable: PostgreSQL is away.
    """
    with translated(), missing("an organization is gone"):
        await database.pool.execute(_DEVICES, *(list(column) for column in zip(*rows, strict=True)))


async def keep_units(database: Database, rows: Sequence[tuple[int, str, str, str]]) -> None:
    """(epoch, device, sensor, unit), each series once; the last unit that was told is kept.

    Raises:
        Rejected: an organization went just now; the same again leaves it out.
        Unavailable: PostgreSQL is away.
    """
    with translated(), missing("an organization is gone"):
        await database.pool.execute(_UNITS, *(list(column) for column in zip(*rows, strict=True)))

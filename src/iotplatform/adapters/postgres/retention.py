"""How long readings are kept, as organizations and devices have said it."""

from __future__ import annotations

from typing import Any, Final, TypeAlias

import asyncpg
import msgspec

from iotplatform.adapters.postgres.connection import Database
from iotplatform.adapters.postgres.errors import translated
from iotplatform.adapters.postgres.models import DeviceRetentionRow, RetentionRow
from iotplatform.adapters.postgres.versions import Check, put_versioned
from iotplatform.domain.retention import Retention, days_of

Asked: TypeAlias = "asyncpg.Pool[asyncpg.Record] | asyncpg.Connection[asyncpg.Record]"

_ALL: Final = """
SELECT epoch, NULL AS device_id, definition FROM retention
UNION ALL SELECT epoch, device_id, definition FROM device_retention
"""
# By the key that leads with the epoch, page by page.
_SERIES: Final = """
SELECT id, device_id, sensor FROM series WHERE epoch = $1 AND (device_id, sensor) > ($2, $3)
ORDER BY device_id, sensor LIMIT $4
"""
SERIES_AT_ONCE: Final = 2_000
_decoder: Final = msgspec.json.Decoder(Retention)


class SeriesRetention(msgspec.Struct, frozen=True):
    """A series that is not kept for ever."""

    id: int
    device_id: str
    sensor: str
    days: int


class Policies:
    """What is said in all organizations, at one moment."""

    def __init__(self) -> None:
        self._organizations: dict[int, Retention] = {}
        self._devices: dict[int, dict[str, Retention]] = {}

    @classmethod
    async def load(cls, connection: Asked) -> Policies:
        made = cls()
        with translated():
            for row in await connection.fetch(_ALL):
                said = _decoder.decode(row["definition"])
                if row["device_id"] is None:
                    made._organizations[row["epoch"]] = said
                else:
                    made._devices.setdefault(row["epoch"], {})[row["device_id"]] = said
        return made

    @property
    def epochs(self) -> list[int]:
        return sorted(self._organizations.keys() | self._devices.keys())

    def shortest_days(self) -> dict[int, int]:
        """By epoch, the least that anything in the organization is kept for."""
        found: dict[int, int] = {}
        for epoch in self.epochs:
            said = [self._organizations.get(epoch, Retention()), *self._devices.get(epoch, {}).values()]
            if days := [days for one in said for days in one.all_days()]:
                found[epoch] = min(days)
        return found

    async def series(self, connection: Asked, epoch: int) -> list[SeriesRetention]:
        """The series of an organization that are not kept for ever."""
        organization, devices = self._organizations.get(epoch, Retention()), self._devices.get(epoch, {})
        # Many devices have the same sensors.
        known: dict[tuple[str | None, str], int | None] = {}
        found: list[SeriesRetention] = []
        place = ("", "")
        while True:
            with translated():
                rows = await connection.fetch(_SERIES, epoch, *place, SERIES_AT_ONCE)
            for row in rows:
                device = devices.get(row["device_id"])
                key = (None if device is None else row["device_id"], row["sensor"])
                if key not in known:
                    known[key] = days_of(organization, device, row["sensor"])
                if (days := known[key]) is not None:
                    found.append(SeriesRetention(row["id"], row["device_id"], row["sensor"], days))
            if len(rows) < SERIES_AT_ONCE:
                break
            place = (rows[-1]["device_id"], rows[-1]["sensor"])
            known.clear()
        return found


async def shortest_retention_s(database: Database) -> dict[int, float]:
    """By epoch, the least time for which anything in the organization is kept."""
    policies = await Policies.load(database.pool)
    return {epoch: days * 86_400.0 for epoch, days in policies.shortest_days().items()}


async def find(database: Database, epoch: int) -> RetentionRow | None:
    with translated():
        async with database.sessions() as session:
            return await session.get(RetentionRow, epoch)


async def find_of_device(database: Database, epoch: int, device_id: str) -> DeviceRetentionRow | None:
    with translated():
        async with database.sessions() as session:
            return await session.get(DeviceRetentionRow, (epoch, device_id))


async def put(database: Database, epoch: int, definition: dict[str, Any], check: Check) -> RetentionRow:
    """Say it for an organization. `check` is told the version there was, or None.

    Raises:
        Rejected: by `check`, the organization is gone, or somebody else has said something in this moment.
        Unavailable: PostgreSQL is away.
    """
    wanted = RetentionRow(epoch=epoch, definition=definition)
    return (await put_versioned(database, wanted, epoch, check, "the retention"))[0]


async def put_of_device(
    database: Database, epoch: int, device_id: str, definition: dict[str, Any], check: Check
) -> DeviceRetentionRow:
    row = DeviceRetentionRow(epoch=epoch, device_id=device_id, definition=definition)
    return (await put_versioned(database, row, (epoch, device_id), check, "the retention"))[0]

"""Which devices are there: connected, or heard of lately."""

from __future__ import annotations

import datetime as dt
from collections.abc import Collection, Iterable
from typing import Final

from sqlalchemy import ColumnElement, and_, exists, func, or_, select

from iotplatform.adapters.postgres.connection import Database
from iotplatform.adapters.postgres.errors import translated
from iotplatform.adapters.postgres.models import DevicePresenceRow, DeviceRow

# Who has no connection is online as long as it was heard of within this time, and after its last connection ended.
ONLINE_FOR: Final = dt.timedelta(minutes=5)

# Joined with the organizations there are: one may have been deleted meanwhile.
_SEEN: Final = """
INSERT INTO device_presence AS p (epoch, device_id, last_seen_at)
SELECT n.epoch, n.device_id, n.at FROM unnest($1::bigint[], $2::text[], $3::timestamptz[]) AS n (epoch, device_id, at)
JOIN organizations o ON o.epoch = n.epoch
ON CONFLICT (epoch, device_id) DO UPDATE SET last_seen_at = greatest(p.last_seen_at, excluded.last_seen_at)
"""
_CONNECTED: Final = """
INSERT INTO device_presence AS p (epoch, device_id, connected, disconnected_at, last_seen_at)
SELECT n.epoch, n.device_id, n.connected, CASE WHEN NOT n.connected THEN n.at END, n.at
FROM unnest($1::bigint[], $2::text[], $3::boolean[], $4::timestamptz[]) AS n (epoch, device_id, connected, at)
JOIN organizations o ON o.epoch = n.epoch
ON CONFLICT (epoch, device_id) DO UPDATE SET
    connected = excluded.connected,
    disconnected_at = CASE
        WHEN excluded.connected THEN p.disconnected_at
        WHEN p.connected OR p.disconnected_at IS NULL THEN excluded.disconnected_at
        ELSE p.disconnected_at
    END,
    last_seen_at = greatest(p.last_seen_at, excluded.last_seen_at)
"""
_ONLY: Final = """
UPDATE device_presence p SET connected = false, disconnected_at = now()
WHERE p.connected AND NOT EXISTS (
    SELECT FROM unnest($1::bigint[], $2::text[]) AS n (epoch, device_id)
    WHERE n.epoch = p.epoch AND n.device_id = p.device_id
)
"""

Device = tuple[int, str]


class Presence:
    def __init__(self, database: Database) -> None:
        self._pool = database.pool

    async def seen(self, devices: Iterable[tuple[Device, dt.datetime]]) -> None:
        """Raises:
        Unavailable: PostgreSQL is away.
        """
        rows = list(devices)
        with translated():
            await self._pool.execute(
                _SEEN, [epoch for (epoch, _), _ in rows], [device for (_, device), _ in rows], [at for _, at in rows]
            )

    async def connected(self, devices: Iterable[tuple[Device, bool, dt.datetime]]) -> None:
        """Raises:
        Unavailable: PostgreSQL is away.
        """
        rows = list(devices)
        with translated():
            await self._pool.execute(
                _CONNECTED,
                [epoch for (epoch, _), _, _ in rows],
                [device for (_, device), _, _ in rows],
                [connected for _, connected, _ in rows],
                [at for _, _, at in rows],
            )

    async def only(self, devices: Collection[Device]) -> None:
        """Nobody else is connected.

        Raises:
            Unavailable: PostgreSQL is away.
        """
        with translated():
            await self._pool.execute(_ONLY, [epoch for epoch, _ in devices], [device for _, device in devices])


def is_online(row: DevicePresenceRow | None, now: dt.datetime) -> bool:
    if row is None:
        return False
    return row.connected or (
        row.last_seen_at > now - ONLINE_FOR and (row.disconnected_at is None or row.last_seen_at > row.disconnected_at)
    )


def online_devices(epoch: int) -> ColumnElement[bool]:
    """The same as a condition on rows of devices."""
    row = DevicePresenceRow
    lately = and_(
        row.last_seen_at > func.now() - ONLINE_FOR,
        or_(row.disconnected_at.is_(None), row.last_seen_at > row.disconnected_at),
    )
    return exists().where(
        row.epoch == epoch, row.epoch == DeviceRow.epoch, row.device_id == DeviceRow.id, or_(row.connected, lately)
    )


async def find(database: Database, epoch: int, device_ids: Collection[str]) -> dict[str, DevicePresenceRow]:
    """By device; those that were never heard of are left out."""
    query = select(DevicePresenceRow).where(
        DevicePresenceRow.epoch == epoch, DevicePresenceRow.device_id.in_(list(device_ids))
    )
    with translated():
        async with database.sessions() as session:
            return {row.device_id: row for row in await session.scalars(query)}

"""Deleting a device: its rows at once, and a row of `device_removals` until nothing of it can arrive any more."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Final

import msgspec

from iotplatform.adapters.postgres.actor import claim
from iotplatform.adapters.postgres.connection import Database
from iotplatform.adapters.postgres.errors import translated
from iotplatform.domain.organization import Organization

_LOCK: Final = "SELECT version FROM devices WHERE epoch = $1 AND id = $2 FOR UPDATE"
_TOKENS: Final = "SELECT id FROM device_tokens WHERE epoch = $1 AND device_id = $2"
_DELETE: Final = "DELETE FROM devices WHERE epoch = $1 AND id = $2"
_ADD: Final = """
INSERT INTO device_removals (epoch, device_id, cut) VALUES ($1, $2, $3)
ON CONFLICT (epoch, device_id) DO UPDATE SET cut = excluded.cut, settled = false, requested_at = now()
"""
_DUE: Final = """
SELECT o.id AS organization_id, r.epoch, o.partitions, r.device_id, r.cut, r.settled,
    EXISTS (SELECT FROM devices d WHERE d.epoch = r.epoch AND d.id = r.device_id) AS made_again
FROM device_removals r JOIN organizations o ON o.epoch = r.epoch
WHERE r.requested_at < now() - make_interval(secs => $1) ORDER BY r.epoch, r.device_id
"""
_SETTLE: Final = """
UPDATE device_removals SET cut = $3, settled = true WHERE epoch = $1 AND device_id = $2 AND cut = $4
"""
_END: Final = "DELETE FROM device_removals WHERE epoch = $1 AND device_id = $2 AND cut = $3"
_SENSORS: Final = "SELECT sensor FROM series WHERE epoch = $1 AND device_id = $2"
_POSITION: Final = "SELECT position FROM partitions WHERE epoch = $1 AND number = $2"


class DueRemoval(msgspec.Struct, frozen=True):
    """`cut` is the last position that was the deleted device's; `settled` when that is known for good."""

    organization_id: str
    epoch: int
    partitions: int
    device_id: str
    cut: int
    settled: bool
    made_again: bool


class DeviceRemovals:
    def __init__(self, database: Database) -> None:
        self._pool = database.pool

    async def begin(
        self,
        organization: Organization,
        device_id: str,
        check: Callable[[int], None],
        last_position: Callable[[], Awaitable[int]],
    ) -> tuple[int, list[str]] | None:
        """Delete the device with its tokens; the cut and the tokens' ids, or None when there is no such device.

        `check` is told its version, and `last_position` asked while nobody else can delete or make it.

        Raises:
            Rejected: by `check`.
            Unavailable: PostgreSQL or JetStream is away; nothing was deleted.
        """
        epoch = organization.epoch
        with translated():
            async with self._pool.acquire() as connection, connection.transaction():
                await claim(connection)
                row = await connection.fetchrow(_LOCK, epoch, device_id)
                if row is None:
                    return None
                check(row["version"])
                tokens = [token["id"] for token in await connection.fetch(_TOKENS, epoch, device_id)]
                cut = await last_position()
                await connection.execute(_DELETE, epoch, device_id)
                await connection.execute(_ADD, epoch, device_id, cut)
        return cut, tokens

    async def due(self, after_s: float) -> list[DueRemoval]:
        """Those that were begun longer ago than `after_s`."""
        with translated():
            return [DueRemoval(**row) for row in await self._pool.fetch(_DUE, after_s)]

    async def settle(self, due: DueRemoval, cut: int) -> None:
        """From now on nothing behind `cut` is the deleted device's."""
        with translated():
            await self._pool.execute(_SETTLE, due.epoch, due.device_id, cut, due.cut)

    async def sensors(self, epoch: int, device_id: str) -> list[str]:
        with translated():
            return [row["sensor"] for row in await self._pool.fetch(_SENSORS, epoch, device_id)]

    async def is_stored(self, epoch: int, partition: int, cut: int) -> bool:
        """Whether persistence has passed the cut, so that nothing can come late."""
        with translated():
            position = await self._pool.fetchval(_POSITION, epoch, partition)
        return position is None or position >= cut

    async def end(self, due: DueRemoval, cut: int) -> None:
        with translated():
            await self._pool.execute(_END, due.epoch, due.device_id, cut)

"""The ledger's half that PostgreSQL keeps: what was handled, and how far each lane had come by then."""

from __future__ import annotations

import msgspec

from iotplatform.adapters.postgres.connection import Database
from iotplatform.adapters.postgres.errors import translated


class HandledPartition(msgspec.Struct, frozen=True):
    """Counts of readings up to and including stream sequence `position`; `lane_totals` by lane id."""

    number: int
    position: int
    stored: int
    dead_lettered: int
    lane_totals: dict[str, int]


class Ledger:
    def __init__(self, database: Database) -> None:
        self._pool = database.pool

    async def handled(self, epoch: int) -> list[HandledPartition]:
        """One consistent snapshot of all the partitions of an organization."""
        with translated():
            async with (
                self._pool.acquire() as connection,
                connection.transaction(isolation="repeatable_read", readonly=True),
            ):
                partitions = await connection.fetch(
                    "SELECT number, position, stored, dead_lettered FROM partitions WHERE epoch = $1 ORDER BY number",
                    epoch,
                )
                lanes = await connection.fetch("SELECT partition, id, total FROM lanes WHERE epoch = $1", epoch)
        totals: dict[int, dict[str, int]] = {}
        for lane in lanes:
            totals.setdefault(lane["partition"], {})[lane["id"]] = lane["total"]
        return [
            HandledPartition(
                row["number"], row["position"], row["stored"], row["dead_lettered"], totals.get(row["number"], {})
            )
            for row in partitions
        ]

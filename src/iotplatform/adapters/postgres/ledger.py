"""The ledger's half that PostgreSQL keeps: what was handled, how far each lane had come by then, and known gaps."""

from __future__ import annotations

from typing import Final

import msgspec

from iotplatform.adapters.postgres.connection import Database
from iotplatform.adapters.postgres.errors import translated
from iotplatform.adapters.postgres.gaps import gap_of
from iotplatform.domain.gap import Gap, LanePlace

MOST_GAPS: Final = 1_000

_PARTITIONS: Final = """
SELECT number, position, stored, dead_lettered, folded FROM partitions WHERE epoch = $1 ORDER BY number
"""
_LANES: Final = "SELECT partition, id, last_number, total FROM lanes WHERE epoch = $1"
_GAPS: Final = "SELECT *, count(*) OVER () AS all_gaps FROM gaps WHERE epoch = $1 ORDER BY id LIMIT $2"


class HandledPartition(msgspec.Struct, frozen=True):
    """Counts of readings up to and including stream sequence `position`.

    `lanes` is where each lane stood there; `folded` is the sum of the totals of those that have ended.
    """

    number: int
    position: int
    stored: int
    dead_lettered: int
    folded: int
    lanes: dict[str, LanePlace]


class Handled(msgspec.Struct, frozen=True):
    """All partitions of an organization; `unread_gaps` is how many gaps were too many to be loaded."""

    partitions: list[HandledPartition]
    gaps: list[Gap]
    unread_gaps: int


class Ledger:
    def __init__(self, database: Database) -> None:
        self._pool = database.pool

    async def handled(self, epoch: int) -> Handled:
        """One consistent snapshot."""
        with translated():
            async with (
                self._pool.acquire() as connection,
                connection.transaction(isolation="repeatable_read", readonly=True),
            ):
                partitions = await connection.fetch(_PARTITIONS, epoch)
                lanes = await connection.fetch(_LANES, epoch)
                gaps = await connection.fetch(_GAPS, epoch, MOST_GAPS)
        places: dict[int, dict[str, LanePlace]] = {}
        for lane in lanes:
            places.setdefault(lane["partition"], {})[lane["id"]] = LanePlace(lane["last_number"], lane["total"])
        return Handled(
            [
                HandledPartition(
                    row["number"],
                    row["position"],
                    row["stored"],
                    row["dead_lettered"],
                    row["folded"],
                    places.get(row["number"], {}),
                )
                for row in partitions
            ],
            [gap_of(row) for row in gaps],
            gaps[0]["all_gaps"] - len(gaps) if gaps else 0,
        )

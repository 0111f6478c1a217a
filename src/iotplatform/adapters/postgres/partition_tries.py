"""Persistence's position of a partition with the tries of `domain.caution`, kept in one row.

A write that expects the position finds no row when another process has moved it.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Final

import msgspec

from iotplatform.adapters.postgres.connection import Database
from iotplatform.adapters.postgres.errors import translated
from iotplatform.adapters.postgres.persistence import PositionMoved
from iotplatform.domain.caution import MAX_TRIES, Tries

_ACQUIRE: Final = """
UPDATE partitions SET tries = GREATEST(tries + $3, 1) WHERE epoch = $1 AND number = $2
RETURNING position, tries, suspect, suspect_tries
"""

_SUSPECT: Final = """
UPDATE partitions
SET suspect = $4, suspect_tries = CASE WHEN suspect = $4 THEN LEAST(suspect_tries, $5) ELSE 0 END + 1
WHERE epoch = $1 AND number = $2 AND position = $3
RETURNING suspect_tries - 1
"""

_SPARE: Final = """
UPDATE partitions SET suspect_tries = suspect_tries - 1
WHERE epoch = $1 AND number = $2 AND suspect = $3 AND suspect_tries > 0
"""

_COUNT_FAILURE: Final = "UPDATE partitions SET tries = tries + 1 WHERE epoch = $1 AND number = $2"

_LET_GO: Final = """
UPDATE partitions p SET tries = GREATEST(p.tries - 1, 0)
FROM unnest($1::bigint[], $2::int[]) AS w(epoch, number) WHERE p.epoch = w.epoch AND p.number = w.number
"""


class Taken(msgspec.Struct, frozen=True):
    position: int
    tries: Tries


class PartitionTries:
    def __init__(self, database: Database) -> None:
        self._pool = database.pool

    async def acquire(self, epoch: int, partition: int, *, counted: bool) -> Taken | None:
        """Take hold; None when there is no such partition (any more). `counted` by whoever did not have it before."""
        with translated():
            row = await self._pool.fetchrow(_ACQUIRE, epoch, partition, int(counted))
        if row is None:
            return None
        return Taken(row["position"], Tries(row["tries"], row["suspect"], row["suspect_tries"]))

    async def suspect(self, epoch: int, partition: int, before: int, sequence: int) -> int:
        """Count that this block is taken up alone; answers how often it was before, MAX_TRIES at most.

        Raises:
            PositionMoved: the position is not `before` any more.
            Unavailable: PostgreSQL is away; it may have been counted.
        """
        with translated():
            tries = await self._pool.fetchval(_SUSPECT, epoch, partition, before, sequence, MAX_TRIES)
        if tries is None:
            raise PositionMoved({(epoch, partition)})
        return int(tries)

    async def spare(self, epoch: int, partition: int, sequence: int) -> None:
        """Take the last `suspect` back: it was not the block's fault that it was not handled."""
        with translated():
            await self._pool.execute(_SPARE, epoch, partition, sequence)

    async def count_failure(self, epoch: int, partition: int) -> None:
        """As if a holder had ended: handling has failed for a reason that nobody knows."""
        with translated():
            await self._pool.execute(_COUNT_FAILURE, epoch, partition)

    async def let_go(self, partitions: Collection[tuple[int, int]]) -> None:
        """In order: whoever acquires them (epoch, number) next need not suspect anything."""
        with translated():
            await self._pool.execute(_LET_GO, [epoch for epoch, _ in partitions], [number for _, number in partitions])

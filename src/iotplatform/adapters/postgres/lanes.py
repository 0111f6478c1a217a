"""How far each lane has come, and the folding of those that have ended."""

from __future__ import annotations

from typing import Final

import asyncpg

from iotplatform.adapters.postgres.connection import Database
from iotplatform.adapters.postgres.errors import translated
from iotplatform.domain.gap import LanePlace

# An idle lane is dropped by its process after ten minutes and never used again; a block of it that is still under way
# is given up within another. An hour of stream time behind its partition's newest block, a lane is over.
ENDED_AFTER_S: Final = 3_600

_LANES: Final = """
SELECT id, last_number, total, (extract(epoch FROM seen_at) * 1000000)::bigint AS seen_at
FROM lanes WHERE epoch = $1 AND partition = $2
"""

# One statement, so that the ledger's snapshot sees a lane's total in exactly one of the two places.
_FOLD: Final = f"""
WITH newest AS (
    SELECT epoch, partition, max(seen_at) AS at FROM lanes GROUP BY epoch, partition
), ended AS (
    DELETE FROM lanes l USING newest n
    WHERE l.epoch = n.epoch AND l.partition = n.partition AND l.seen_at < n.at - interval '{ENDED_AFTER_S} s'
    RETURNING l.epoch, l.partition, l.total
), totals AS (
    SELECT epoch, partition, sum(total)::bigint AS total, count(*) AS lanes FROM ended GROUP BY epoch, partition
), folded AS (
    UPDATE partitions p SET folded = p.folded + t.total FROM totals t
    WHERE p.epoch = t.epoch AND p.number = t.partition
)
SELECT coalesce(sum(lanes), 0)::bigint FROM totals
"""  # noqa: S608


async def load_lanes(pool: asyncpg.Pool[asyncpg.Record], epoch: int, partition: int) -> dict[str, LanePlace]:
    """The lanes of a partition as they stand at its stored position, or behind it when that moves meanwhile.

    Ask for the position first: one that has moved since fences whoever goes on from it.
    """
    with translated():
        rows = await pool.fetch(_LANES, epoch, partition)
    return {row["id"]: LanePlace(row["last_number"], row["total"], row["seen_at"]) for row in rows}


async def fold_lanes(database: Database) -> int:
    """Add the totals of lanes that have ended to their partitions, and remove them; returns their number."""
    with translated():
        return int(await database.pool.fetchval(_FOLD))


def drop_ended(lanes: dict[str, LanePlace], newest_at: int) -> None:
    """The same in memory; `newest_at` is the store time of the partition's newest block, in microseconds."""
    before = newest_at - ENDED_AFTER_S * 1_000_000
    for lane in [lane for lane, place in lanes.items() if place.seen_at < before]:
        del lanes[lane]

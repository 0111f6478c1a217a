"""The table of gaps: what vanished stays known, also when trimming has removed the place where it was missing."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

import asyncpg

from iotplatform.adapters.postgres.connection import Database
from iotplatform.adapters.postgres.errors import translated
from iotplatform.domain.gap import Gap, LaneGap, LostPosition, SequenceGap

# The lock makes a deletion of the organization wait, so that the foreign key can't fail in between. A hole that has
# grown keeps its row.
_RECORD: Final = """
INSERT INTO gaps (epoch, partition, lane, first_number, last_number, readings, sequence)
SELECT w.epoch, w.partition, w.lane, w.first_number, w.last_number, w.readings, w.sequence
FROM unnest($1::bigint[], $2::int[], $3::text[], $4::bigint[], $5::bigint[], $6::bigint[], $7::bigint[])
    AS w(epoch, partition, lane, first_number, last_number, readings, sequence)
JOIN organizations o ON o.epoch = w.epoch
FOR KEY SHARE OF o
ON CONFLICT ON CONSTRAINT gaps_what_key DO UPDATE SET last_number = excluded.last_number
    WHERE gaps.last_number < excluded.last_number
"""

_TRIMMED: Final = "SELECT coalesce(max(trimmed), 0) FROM partitions WHERE epoch = $1"
_CUT: Final = "UPDATE partitions SET trimmed = $3 WHERE epoch = $1 AND number = $2 AND trimmed < $3"

_Row = tuple[int, int | None, str | None, int | None, int | None, int | None, int | None]


async def record_gaps(
    connection: asyncpg.pool.PoolConnectionProxy[asyncpg.Record], gaps: Iterable[tuple[int, Gap]]
) -> None:
    """Gaps with their epochs, in whatever transaction the connection is; those known already change nothing."""
    # By what the unique constraint looks at: one statement must not meet a row twice.
    rows = {(row[0], row[1], row[2], row[3], row[6]): row for row in (_row(epoch, gap) for epoch, gap in gaps)}
    if rows:
        await connection.execute(_RECORD, *(list(column) for column in zip(*rows.values(), strict=True)))


class Gaps:
    def __init__(self, database: Database) -> None:
        self._pool = database.pool

    async def record(self, epoch: int, gaps: Iterable[Gap]) -> None:
        with translated():
            async with self._pool.acquire() as connection:
                await record_gaps(connection, [(epoch, gap) for gap in gaps])

    async def trimmed(self, epoch: int) -> int:
        """The sequence below which trimming may have removed blocks of the organization."""
        with translated():
            return int(await self._pool.fetchval(_TRIMMED, epoch))

    async def cut(self, epoch: int, partition: int, sequence: int) -> None:
        """To be called before anything below `sequence` is removed."""
        with translated():
            await self._pool.execute(_CUT, epoch, partition, sequence)


def _row(epoch: int, gap: Gap) -> _Row:
    match gap:
        case LaneGap(partition, lane, first, last, readings):
            return epoch, partition, lane, first, last, readings, None
        case SequenceGap(first, last):
            return epoch, None, None, None, last, None, first
        case LostPosition(partition, position):
            return epoch, partition, None, None, None, None, position


def gap_of(row: asyncpg.Record) -> Gap:
    """The gap in a row of the table."""
    if row["lane"] is not None:
        return LaneGap(row["partition"], row["lane"], row["first_number"], row["last_number"], row["readings"])
    if row["partition"] is not None:
        return LostPosition(row["partition"], row["sequence"])
    return SequenceGap(row["sequence"], row["last_number"])

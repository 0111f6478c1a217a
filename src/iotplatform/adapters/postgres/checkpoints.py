"""Positions up to which analysis is done for sure, as PostgreSQL remembers them: a little behind, never ahead.

They matter when Redis is lost together with the memory of nats-server: nobody else knows then where analysis stood.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from iotplatform.adapters.postgres.connection import Database
from iotplatform.adapters.postgres.errors import translated

# An organization may be deleted meanwhile.
_WRITE: Final = """
INSERT INTO checkpoints (epoch, partition, position)
SELECT w.epoch, w.partition, w.position
FROM unnest($1::bigint[], $2::int[], $3::bigint[]) AS w(epoch, partition, position)
JOIN organizations o ON o.epoch = w.epoch
ORDER BY w.epoch, w.partition
FOR KEY SHARE OF o
ON CONFLICT (epoch, partition) DO UPDATE SET position = EXCLUDED.position
"""


class Checkpoints:
    def __init__(self, database: Database) -> None:
        self._pool = database.pool

    async def read(self, epoch: int, partition: int) -> int:
        """0 when there is none.

        Raises:
            Unavailable: PostgreSQL is away.
        """
        with translated():
            position = await self._pool.fetchval(
                "SELECT position FROM checkpoints WHERE epoch = $1 AND partition = $2", epoch, partition
            )
        return int(position or 0)

    async def write(self, positions: Mapping[tuple[int, int], int]) -> None:
        """By (epoch, partition). Each must be one up to which everything is published.

        Raises:
            Unavailable: PostgreSQL is away.
        """
        with translated():
            await self._pool.execute(
                _WRITE,
                [epoch for epoch, _ in positions],
                [partition for _, partition in positions],
                list(positions.values()),
            )

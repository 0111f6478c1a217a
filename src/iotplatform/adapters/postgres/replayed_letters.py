"""Which dead letters were replayed: what a stream of letters lacks beyond them, it has dropped because it was full."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from iotplatform.adapters.postgres.connection import Database
from iotplatform.adapters.postgres.errors import translated

# Of an organization that is still there; one that is replayed again is known already.
_ADD: Final = """
INSERT INTO replayed_letters (epoch, place)
SELECT o.epoch, p.place FROM organizations o, unnest($2::bigint[]) AS p(place)
WHERE o.epoch = $1 FOR KEY SHARE OF o
ON CONFLICT ON CONSTRAINT replayed_letters_pkey DO NOTHING
"""
_COUNT: Final = "SELECT count(*) FROM replayed_letters WHERE epoch = $1"
_COUNTS: Final = """
SELECT o.id, count(*) AS letters FROM replayed_letters r JOIN organizations o ON o.epoch = r.epoch GROUP BY o.id
"""


class ReplayedLetters:
    """By their places in their organization's stream."""

    def __init__(self, database: Database) -> None:
        self._pool = database.pool

    async def add(self, epoch: int, places: Sequence[int]) -> None:
        """Raises:
        Unavailable: PostgreSQL is away.
        """
        if places:
            with translated():
                await self._pool.execute(_ADD, epoch, list(places))

    async def count(self, epoch: int) -> int:
        with translated():
            return int(await self._pool.fetchval(_COUNT, epoch))

    async def counts(self) -> dict[str, int]:
        """By organization; those without any are left out."""
        with translated():
            return {row["id"]: row["letters"] for row in await self._pool.fetch(_COUNTS)}

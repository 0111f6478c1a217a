"""Since when, and until when, the platform was there for readings to arrive.

Every process of ingestion writes down that it can store what comes. A series is silent only while somebody could have
heard it, so the clock of silence ends where the last of them was heard of.
"""

from __future__ import annotations

from typing import Final

from iotplatform.adapters.postgres.connection import Database
from iotplatform.adapters.postgres.errors import translated
from iotplatform.domain.presence import NEVER, Presence
from iotplatform.domain.timestamps import to_microseconds

# Longer than it takes until one that is away is missed by everybody.
AWAY_AFTER: Final = "5 seconds"
PRUNED_AFTER: Final = "1 day"

_BEAT: Final = f"""
WITH pruned AS (
    DELETE FROM ingestion WHERE until < now() - interval '{PRUNED_AFTER}' AND id <> $1
)
INSERT INTO ingestion (id) VALUES ($1)
ON CONFLICT (id) DO UPDATE SET until = now(),
    since = CASE WHEN $2 OR ingestion.until < now() - interval '{PRUNED_AFTER}' THEN now() ELSE ingestion.since END
"""  # noqa: S608 - names of ours

# Those that are still there are the ones that were heard of last; who left a moment ago counts with them.
_LOOK: Final = f"""
SELECT min(since) FILTER (WHERE until > latest - interval '{AWAY_AFTER}') AS since, max(until) AS until
FROM ingestion, (SELECT max(until) AS latest FROM ingestion) AS newest
"""  # noqa: S608


class IngestionRoll:
    def __init__(self, database: Database) -> None:
        self._pool = database.pool

    async def beat(self, process_id: str, *, is_back: bool) -> None:
        """`is_back`: it was away until now, or has just begun.

        Raises:
            Unavailable: PostgreSQL is away.
        """
        with translated():
            await self._pool.execute(_BEAT, process_id, is_back)

    async def look(self) -> Presence:
        with translated():
            row = await self._pool.fetchrow(_LOOK)
        if row is None or row["until"] is None:
            return NEVER
        return Presence(to_microseconds(row["since"]), to_microseconds(row["until"]))

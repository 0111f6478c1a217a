"""Sessions of processes that stand still in the middle of a COPY, and so keep partitions locked for whoever takes over.

Between two statements PostgreSQL ends such a session itself (`idle_in_transaction_session_timeout`). In the middle of a
COPY it waits for more rows, where no time-out of a statement or a transaction reaches it; only being ended by another
session does.
"""

from __future__ import annotations

from typing import Final

from iotplatform.adapters.postgres.connection import FROZEN_AFTER_MS, Database
from iotplatform.adapters.postgres.errors import translated

APPLICATION_NAME: Final = "iotplatform-readings"

# One that waits for its client this long, and that somebody else waits for: a client that is only slow harms nobody.
_END: Final = """
SELECT count(*) FILTER (WHERE pg_terminate_backend(a.pid)) FROM pg_stat_activity a
WHERE a.application_name = $1 AND a.datname = current_database() AND a.usename = current_user
    AND a.state = 'active' AND a.wait_event = 'ClientRead' AND a.state_change < now() - $2 * interval '1 millisecond'
    AND EXISTS (SELECT FROM pg_locks l WHERE NOT l.granted AND a.pid = ANY (pg_blocking_pids(l.pid)))
"""


async def end_frozen_sessions(database: Database, *, after_ms: int = FROZEN_AFTER_MS) -> int:
    """End them, and return how many there were.

    Raises:
        Unavailable: PostgreSQL is away.
    """
    with translated():
        return int(await database.pool.fetchval(_END, APPLICATION_NAME, after_ms))

"""What PostgreSQL says of itself, and what waits to be delivered, for those who watch it."""

from __future__ import annotations

from typing import Final

import msgspec

from iotplatform.adapters.postgres.connection import Database
from iotplatform.adapters.postgres.errors import translated

MOST_COUNTED: Final = 100_000

# A role that is nobody in particular sees the transactions of its own sessions, which are the platform's.
_STATE: Final = """
SELECT numbackends AS connections, current_setting('max_connections')::int AS connection_limit,
    pg_database_size(datid) AS bytes, xact_commit AS commits, xact_rollback AS rollbacks,
    blks_hit AS blocks_from_memory, blks_read AS blocks_from_disk, deadlocks,
    coalesce((
        SELECT extract(epoch FROM clock_timestamp() - min(xact_start))
        FROM pg_stat_activity WHERE datid = d.datid AND pid <> pg_backend_pid()
    ), 0)::float8 AS oldest_transaction_s
FROM pg_stat_database d
WHERE datname = current_database()
"""
_WAITING: Final = f"""
SELECT (SELECT count(*) FROM (SELECT FROM deliveries WHERE state = 'pending' LIMIT {MOST_COUNTED}) w)::int AS waiting,
    coalesce((
        SELECT greatest(extract(epoch FROM now() - min(next_attempt_at)), 0) FROM deliveries WHERE state = 'pending'
    ), 0)::float8 AS overdue_s
"""  # noqa: S608 - a number of ours


class PostgresState(msgspec.Struct, frozen=True):
    """Counts of what has happened begin when the server's statistics do."""

    connections: int
    connection_limit: int
    bytes: int
    commits: int
    rollbacks: int
    blocks_from_memory: int
    blocks_from_disk: int
    deadlocks: int
    oldest_transaction_s: float


class DeliveriesState(msgspec.Struct, frozen=True):
    """`waiting` counts up to a bound; `overdue_s` is how long the next one has been due."""

    waiting: int
    overdue_s: float


async def look_at_server(database: Database) -> PostgresState:
    """Raises Unavailable when it does not answer."""
    with translated():
        row = await database.pool.fetchrow(_STATE)
    assert row is not None  # noqa: S101 - the database that we are connected to
    return PostgresState(**row)


async def look_at_deliveries(database: Database) -> DeliveriesState:
    """Raises Unavailable when PostgreSQL does not answer."""
    with translated():
        row = await database.pool.fetchrow(_WAITING)
    assert row is not None  # noqa: S101 - a query without FROM has a row
    return DeliveriesState(**row)

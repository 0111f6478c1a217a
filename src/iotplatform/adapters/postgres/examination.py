"""Looking at PostgreSQL as a doctor would: briefly, and without changing anything."""

from __future__ import annotations

import time
from typing import Final

import asyncpg

from iotplatform.adapters.postgres.migrations import at_head
from iotplatform.domain.finding import Finding, ok, problem, skew, warning
from iotplatform.errors import Unavailable

WITHIN_S: Final = 3
OLDEST: Final = 15
# Settings without which an acknowledged commit can be lost, and what they must not be.
_SYNCED: Final = {"fsync": "off", "full_page_writes": "off", "synchronous_commit": "off"}
NEARLY_ALL: Final = 0.8
_UNFINISHED: Final = """
SELECT o.id, to_char(i.begun_at AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI"Z"') AS at
FROM imports i JOIN organizations o USING (epoch) WHERE i.finished_at IS NULL ORDER BY i.begun_at LIMIT 20
"""


async def examine_postgres(url: str) -> list[Finding]:
    try:
        connection = await asyncpg.connect(url, timeout=WITHIN_S, command_timeout=WITHIN_S)
    except (asyncpg.InvalidPasswordError, asyncpg.InvalidAuthorizationSpecificationError):
        return [problem("PostgreSQL", "it refuses the user and password of postgres.url", "correct postgres.url")]
    except asyncpg.InvalidCatalogNameError as error:
        return [problem("PostgreSQL", str(error), "create the database, or correct postgres.url")]
    except asyncpg.TooManyConnectionsError:
        return [problem("PostgreSQL", "it has no connection left", "raise max_connections, or run fewer processes")]
    except (OSError, asyncpg.PostgresError, asyncpg.InterfaceError) as error:
        detail = f"not reachable: {str(error) or type(error).__name__}"
        return [problem("PostgreSQL", detail, "start it, or correct postgres.url; is a firewall in between?")]
    try:
        return [
            _version(connection),
            *await _settings(connection),
            await _clock(connection),
            await _schema(url),
            *await _imports(connection),
        ]
    except (OSError, asyncpg.PostgresError, asyncpg.InterfaceError) as error:
        return [problem("PostgreSQL", f"it does not answer: {error}", "look at its log")]
    finally:
        await connection.close(timeout=WITHIN_S)


def _version(connection: asyncpg.Connection[asyncpg.Record]) -> Finding:
    version = connection.get_server_version()
    if version.major < OLDEST:
        return problem("PostgreSQL", f"version {version.major} is older than {OLDEST}", "update it")
    return ok("PostgreSQL", f"reachable, version {version.major}.{version.minor}")


async def _settings(connection: asyncpg.Connection[asyncpg.Record]) -> list[Finding]:
    found = []
    for name, lossy in _SYNCED.items():
        if await connection.fetchval("SELECT current_setting($1)", name) == lossy:
            detail = f"{name} is off: stored readings can be lost with the power"
            found.append(warning("PostgreSQL", detail, f"set {name} = on"))
    if await connection.fetchval("SHOW default_transaction_read_only") == "on":
        found.append(problem("PostgreSQL", "it is read-only", "connect to the primary, or free its disk"))
    used = await connection.fetchval("SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'client backend'")
    most = int(await connection.fetchval("SHOW max_connections"))
    if used > NEARLY_ALL * most:
        detail = f"{used} of {most} connections are taken"
        found.append(warning("PostgreSQL", detail, "raise max_connections, or run fewer processes"))
    return found


async def _clock(connection: asyncpg.Connection[asyncpg.Record]) -> Finding:
    theirs = await connection.fetchval("SELECT extract(epoch FROM clock_timestamp())::float8")
    return skew("PostgreSQL", theirs, time.time())


async def _schema(url: str) -> Finding:
    try:
        current = await at_head(url)
    except Unavailable as error:
        return problem("schema", error.detail, "look at PostgreSQL's log")
    if not current:
        return problem("schema", "the database is not at this version's schema", "run: iotplatform migrate")
    return ok("schema", "at this version's head")


async def _imports(connection: asyncpg.Connection[asyncpg.Record]) -> list[Finding]:
    """Those that were interrupted among the readings; one that is just running looks the same."""
    if await connection.fetchval("SELECT to_regclass('imports')") is None:
        return []
    rows = await connection.fetch(_UNFINISHED)
    advice = "unless it is running: give `iotplatform import` the same file again, or delete the organization"
    return [
        warning("imports", f"the import of {row['id']!r}, begun at {row['at']}, is not finished", advice)
        for row in rows
    ]

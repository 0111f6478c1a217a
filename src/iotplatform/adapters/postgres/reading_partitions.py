"""The partitions of `readings`: made ahead of time, made out of the default partition, and dropped.

A reading for whose month there is no partition lies in the default one. When enough of a month have come together
there, the month gets a partition, and they move: in one transaction, for which everybody else waits, so that nobody
ever sees them twice or not at all. That is some microseconds a reading: the sooner, the shorter.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import asynccontextmanager
from typing import Final, TypeAlias

import asyncpg
import msgspec

from iotplatform.adapters.postgres.connection import CONNECT_TIMEOUT_S
from iotplatform.adapters.postgres.errors import translated

Connection: TypeAlias = "asyncpg.Connection[asyncpg.Record]"

DEFAULT: Final = "readings_default"
# Of one month in the default partition: fewer are not worth three files and a place in every plan.
WORTH_A_PARTITION: Final = 20_000
# Every query without bounds in time looks into each of them, and locks it.
MOST_PARTITIONS: Final = 126
OLDEST_MONTHS: Final = 120
MONTHS_AHEAD: Final = 1
# How long others may be kept waiting because ours waits for somebody's long query.
LOCK_TIMEOUT_MS: Final = 1_000

# "iotp" in ASCII, and which of the cares it is: of a database, one process at a time has each.
_LOCK: Final = "SELECT pg_try_advisory_lock(x'696f7470'::int, $1)"
KEEPING: Final = 1
PACKING: Final = 2
EXPIRING: Final = 3

_LIST: Final = r"""
SELECT c.relname AS name, c.reltuples::bigint AS rows, b.first[1]::timestamptz AS since, b.last[1]::timestamptz AS until
FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid
CROSS JOIN LATERAL (SELECT
    regexp_match(pg_get_expr(c.relpartbound, c.oid), 'FROM \(''([^'']+)''\)') AS first,
    regexp_match(pg_get_expr(c.relpartbound, c.oid), 'TO \(''([^'']+)''\)') AS last
) b
WHERE i.inhparent = 'readings'::regclass AND NOT i.inhdetachpending
    AND pg_get_expr(c.relpartbound, c.oid) <> 'DEFAULT'
ORDER BY since NULLS FIRST
"""
_INSERTED: Final = f"SELECT pg_stat_get_tuples_inserted('{DEFAULT}'::regclass)"
_MONTHS: Final = f"""
SELECT date_trunc('month', at, 'UTC') AS month FROM {DEFAULT} WHERE at >= $1 AND at < $2
GROUP BY 1 HAVING count(*) >= $3 ORDER BY 1
"""  # noqa: S608

# First whoever cleans the table up is sent away, which keeps nobody else waiting; then everybody waits, and nobody for
# long. A lock of the default partition alone would do for PostgreSQL, but not for readers: a query that is planned
# without the new partition, and waits, finds the rows in neither of the two.
_ALONE: Final = """
SET LOCAL lock_timeout = '5s';
LOCK TABLE {name} IN SHARE UPDATE EXCLUSIVE MODE;
SET LOCAL lock_timeout = '{timeout_ms}ms';
LOCK TABLE ONLY readings IN ACCESS EXCLUSIVE MODE;
"""
_MAKE: Final = """
CREATE TABLE {name} (LIKE readings INCLUDING DEFAULTS);
INSERT INTO {name} (series_id, kind, at, value, position, text)
    SELECT series_id, kind, at, value, position, text FROM readings_default WHERE at >= '{since}' AND at < '{until}';
ALTER TABLE {name} ADD CONSTRAINT {name}_pkey PRIMARY KEY (series_id, at);
DELETE FROM readings_default WHERE at >= '{since}' AND at < '{until}';
ALTER TABLE readings ATTACH PARTITION {name} FOR VALUES FROM ('{since}') TO ('{until}')
"""


class Partition(msgspec.Struct, frozen=True):
    """`since` is None where it holds everything before `until`; `rows` an estimate, -1 when nobody has looked yet."""

    name: str
    rows: int
    since: dt.datetime | None
    until: dt.datetime


@asynccontextmanager
async def caring_session(url: str, care: int) -> AsyncIterator[Connection | None]:
    """A connection whose statements may take long, or None while another process has that care.

    Raises:
        Unavailable: PostgreSQL is away.
    """
    with translated():
        settings = {"application_name": "iotplatform-partitions", "timezone": "UTC", "lock_timeout": "0"}
        connection = await asyncpg.connect(url, timeout=CONNECT_TIMEOUT_S, server_settings=settings)
        try:
            yield connection if await connection.fetchval(_LOCK, care) else None
        finally:
            # Not asked politely: a statement that was cut off would be waited for.
            connection.terminate()


async def partitions(connection: Connection) -> list[Partition]:
    """Those of a range in time, the oldest first."""
    rows = await connection.fetch(_LIST)
    return [Partition(row["name"], row["rows"], row["since"], row["until"]) for row in rows]


class PartitionMaker:
    def __init__(self) -> None:
        # What had been inserted into the default partition when it was looked through last.
        self._seen = -1

    async def make(self, connection: Connection, now: dt.datetime) -> list[str]:
        """The names of those that were made: for the months to come, and for those that wait in the default partition.

        Raises:
            Unavailable: PostgreSQL is away, or somebody else's query takes long; another time, then.
        """
        with translated():
            return await self._make(connection, now)

    async def _make(self, connection: Connection, now: dt.datetime) -> list[str]:
        there = await partitions(connection)
        this_month = month_of(now)
        wanted = [month_after(this_month, ahead) for ahead in range(MONTHS_AHEAD + 1)]
        inserted = await connection.fetchval(_INSERTED)
        # Counters begin anew when the server has crashed.
        if not 0 <= inserted - self._seen < WORTH_A_PARTITION or self._seen < 0:
            oldest = month_after(this_month, -OLDEST_MONTHS)
            waiting = await connection.fetch(_MONTHS, oldest, this_month, WORTH_A_PARTITION)
            self._seen = inserted
            wanted += [row["month"] for row in reversed(waiting)]
        made: list[str] = []
        for month in wanted:
            if _covered(month, there) or (month < this_month and len(there) + len(made) >= MOST_PARTITIONS):
                continue
            made.append(await _make(connection, month))
        return made


async def drop(connection: Connection, partition: Partition, only_if: Callable[[], Awaitable[bool]]) -> bool:
    """Whether it was dropped: `only_if` is asked while nobody else can read or write.

    Raises:
        Unavailable: PostgreSQL is away, or somebody else's query takes long.
    """
    with translated():
        async with connection.transaction():
            await connection.execute(_ALONE.format(name=partition.name, timeout_ms=LOCK_TIMEOUT_MS))
            if not await only_if():
                return False
            await connection.execute(f"DROP TABLE {partition.name}")
            await connection.execute("DELETE FROM packed_partitions WHERE name = $1", partition.name)
    return True


def month_of(at: dt.datetime) -> dt.datetime:
    return at.replace(day=1, hour=0, minute=0, second=0, microsecond=0)


def month_after(month: dt.datetime, count: int) -> dt.datetime:
    number = month.year * 12 + month.month - 1 + count
    return month.replace(year=number // 12, month=number % 12 + 1)


def _covered(month: dt.datetime, there: Iterable[Partition]) -> bool:
    return any((one.since is None or one.since <= month) and month < one.until for one in there)


async def _make(connection: Connection, month: dt.datetime) -> str:
    name = f"readings_{month:%Y_%m}"
    async with connection.transaction():
        await connection.execute(_ALONE.format(name=DEFAULT, timeout_ms=LOCK_TIMEOUT_MS))
        since, until = month.isoformat(), month_after(month, 1).isoformat()
        await connection.execute(_MAKE.format(name=name, since=since, until=until))
    return name

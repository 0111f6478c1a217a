"""Rollups of readings: computed by whoever maintains them, one process at a time, from hours that are closed.

An hour is closed some minutes after its end. What is written to it later leaves a mark, and until that hour has been
computed again, its readings answer. Marks are taken away, into the work that is to be done, while nobody writes, for a
moment: so a mark is there, or everything it stands for can be seen. Nothing here has to be done twice or can be lost
when a process ends in the middle: work is removed in the transaction that has done it.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

import asyncpg
import msgspec

from iotplatform.adapters.postgres.connection import Database
from iotplatform.adapters.postgres.errors import translated
from iotplatform.adapters.postgres.rollup_marks import ORIGIN

# What comes later than that is computed a second time.
GRACE: Final = "5 minutes"
# After a long time without maintenance: each hour is a look at every series.
HOURS_AT_ONCE: Final = 6
MARKS_AT_ONCE: Final = 20_000
# Below it the minutes of an hour would take more room than its readings.
DENSE: Final = 240

_ALONE: Final = "SELECT pg_advisory_xact_lock(hashtextextended('rollups', 0))"
# Of those who maintain: two may think that they are the one, for a moment.
_MAINTAINER: Final = "SELECT pg_try_advisory_xact_lock(hashtextextended('rollups.maintainer', 0))"
# While we wait for one who writes, all others who want to wait behind us.
_WAIT: Final = "SET LOCAL lock_timeout = '500ms'"

_STATE: Final = """
SELECT closed, EXTRACT(epoch FROM now() - closed)::float8 AS behind_s, isfinite(closed) AS is_used,
    (SELECT count(*) FROM rollup_marks) + (SELECT count(*) FROM rollup_work) AS hours,
    (SELECT count(*) FROM rollup_backlog) AS series
FROM rollup_state
"""

_TARGET: Final = f"""
SELECT CASE WHEN isfinite(closing) THEN least(closing + $1::interval, whole.at) ELSE whole.at END AS at
FROM rollup_state, (SELECT date_bin('1 hour', coalesce($2, now()) - interval '{GRACE}', {ORIGIN}) AS at) whole
"""  # noqa: S608 - ours
_IS_DUE: Final = f"""
SELECT EXISTS (
    SELECT FROM rollup_state s, ({_TARGET}) target WHERE s.closing < target.at AND s.closing = s.closed
)
"""  # noqa: S608
_ADVANCE: Final = f"""
UPDATE rollup_state SET closing = target.at FROM ({_TARGET}) target
WHERE rollup_state.closing < target.at AND rollup_state.closing = rollup_state.closed
"""  # noqa: S608
# Nothing of any series was rolled up, or can be trusted any more: what there is of each is found when it has its turn.
_BEGIN: Final = (
    "DELETE FROM rollup_marks",
    "DELETE FROM rollup_work",
    "INSERT INTO rollup_backlog SELECT id FROM series ON CONFLICT DO NOTHING",
)
_BEGUN: Final = "UPDATE rollup_state SET closed = closing WHERE NOT isfinite(closed)"
_CLOSING: Final = "SELECT closed, closing FROM rollup_state WHERE closed < closing AND isfinite(closed)"
_FIND: Final = """
INSERT INTO rollup_work (series_id, hour)
SELECT s.id, h.hour
FROM series s
CROSS JOIN generate_series($1::timestamptz, $2::timestamptz - interval '1 hour', interval '1 hour') h(hour)
WHERE EXISTS (SELECT FROM readings r WHERE r.series_id = s.id AND r.at >= h.hour AND r.at < h.hour + interval '1 hour')
ON CONFLICT DO NOTHING
"""
# Unless somebody has put rollups out of use meanwhile.
_CLOSED: Final = "UPDATE rollup_state SET closed = $1 WHERE closing = $1"

_TAKE: Final = """
WITH taken AS (
    DELETE FROM rollup_marks
    WHERE (series_id, hour) IN (SELECT series_id, hour FROM rollup_marks LIMIT $1) RETURNING series_id, hour
)
INSERT INTO rollup_work SELECT series_id, hour FROM taken ON CONFLICT DO NOTHING
"""
_TAKEN: Final = "UPDATE rollup_state SET generation = generation + 1"
_ANY_MARKS: Final = "SELECT EXISTS (SELECT FROM rollup_marks)"

_NEXT_SERIES: Final = "SELECT series_id FROM rollup_backlog ORDER BY series_id LIMIT 1"
# From one hour with readings to the next, whatever there is between them.
_HOURS: Final = f"""
INSERT INTO rollup_work (series_id, hour)
WITH RECURSIVE found(hour) AS (
    SELECT date_bin('1 hour', min(at), {ORIGIN}) FROM readings WHERE series_id = $1
    UNION ALL
    SELECT date_bin('1 hour', (
        SELECT min(at) FROM readings WHERE series_id = $1 AND at >= found.hour + interval '1 hour'
    ), {ORIGIN})
    FROM found WHERE found.hour IS NOT NULL
)
SELECT $1, hour FROM found WHERE hour IS NOT NULL AND hour < (SELECT closing FROM rollup_state)
ON CONFLICT DO NOTHING
"""  # noqa: S608 - ours
_TABLES: Final = ("rollups_minute", "rollups_hour", "rollups_day")
_FORGET_SERIES: Final = tuple(f"DELETE FROM {table} WHERE series_id = ANY($1::int[])" for table in _TABLES)  # noqa: S608
_FORGET_WORK: Final = (
    "DELETE FROM rollup_marks WHERE series_id = ANY($1::int[])",
    "DELETE FROM rollup_work WHERE series_id = ANY($1::int[])",
    "DELETE FROM rollup_backlog WHERE series_id = ANY($1::int[])",
)
_NO_BACKLOG: Final = "DELETE FROM rollup_backlog WHERE series_id = $1"

_WORK: Final = "SELECT series_id, hour FROM rollup_work ORDER BY series_id, hour LIMIT $1"
_PIECES: Final = "unnest($1::int[], $2::timestamptz[]) AS w(series_id, hour)"
_COLUMNS: Final = "series_id, at, readings, numbers, lowest, highest, amount, large, first_at, last_at"
_OF_READINGS: Final = """
    count(*), count(value), min(value), max(value),
    coalesce(sum(value) FILTER (WHERE abs(value) < 1e290), 0),
    coalesce(sum(value * 2.0::float8 ^ -128) FILTER (WHERE abs(value) >= 1e290), 0),
    min(r.at), max(r.at)
"""
_IN_PIECE: Final = "r.series_id = w.series_id AND r.at >= w.hour AND r.at < w.hour + interval '1 hour'"
_COMPUTE: Final = (
    f"DELETE FROM rollups_minute r USING {_PIECES} WHERE {_IN_PIECE}",  # noqa: S608
    f"DELETE FROM rollups_hour r USING {_PIECES} WHERE r.series_id = w.series_id AND r.at = w.hour",  # noqa: S608
    f"""
    INSERT INTO rollups_hour ({_COLUMNS}, by_minute)
    SELECT w.series_id, w.hour, a.*, a.readings >= {DENSE}
    FROM {_PIECES} CROSS JOIN LATERAL (
        SELECT {_OF_READINGS} FROM readings r WHERE {_IN_PIECE}
    ) a(readings, numbers, lowest, highest, amount, large, first_at, last_at)
    WHERE a.readings > 0
    """,  # noqa: S608
    f"""
    INSERT INTO rollups_minute ({_COLUMNS})
    SELECT w.series_id, a.*
    FROM {_PIECES} JOIN rollups_hour h ON h.series_id = w.series_id AND h.at = w.hour AND h.by_minute
    CROSS JOIN LATERAL (
        SELECT date_bin('1 minute', r.at, {ORIGIN}), {_OF_READINGS} FROM readings r WHERE {_IN_PIECE} GROUP BY 1
    ) a
    """,  # noqa: S608
    f"""
    DELETE FROM rollups_day r USING {_PIECES}
    WHERE r.series_id = w.series_id AND r.at = date_bin('1 day', w.hour, {ORIGIN})
    """,  # noqa: S608
    f"""
    INSERT INTO rollups_day ({_COLUMNS})
    SELECT d.series_id, d.at, a.*
    FROM (SELECT DISTINCT series_id, date_bin('1 day', hour, {ORIGIN}) AS at FROM {_PIECES}) d
    CROSS JOIN LATERAL (
        SELECT sum(readings)::bigint, sum(numbers)::bigint, min(lowest), max(highest), sum(amount), sum(large),
            min(first_at), max(last_at)
        FROM rollups_hour h WHERE h.series_id = d.series_id AND h.at >= d.at AND h.at < d.at + interval '1 day'
    ) a(readings, numbers, lowest, highest, amount, large, first_at, last_at)
    WHERE a.readings > 0
    """,  # noqa: S608
    f"DELETE FROM rollup_work r USING {_PIECES} WHERE r.series_id = w.series_id AND r.hour = w.hour",  # noqa: S608
)


class RollupState(msgspec.Struct, frozen=True):
    """`closed` is None while rollups answer nothing; `hours` and `series` wait to be computed."""

    closed: dt.datetime | None
    behind_s: float | None
    hours: int
    series: int


class Rollups:
    """Every method raises Unavailable while PostgreSQL is away, or while one who writes does not come to an end."""

    def __init__(self, database: Database) -> None:
        self._pool = database.pool

    async def state(self) -> RollupState:
        with translated():
            row = await self._pool.fetchrow(_STATE)
        assert row is not None  # noqa: S101 - the migration has made it
        used = row["is_used"]
        return RollupState(
            row["closed"] if used else None, row["behind_s"] if used else None, row["hours"], row["series"]
        )

    async def close(self, now: dt.datetime | None = None) -> None:
        """Let the hours that are over be computed, a few of them; `now` is the server's time if it is not given."""
        with translated():
            if await self._pool.fetchval(_IS_DUE, dt.timedelta(hours=HOURS_AT_ONCE), now):
                await self._advance(now)
            # From here on whoever writes to those hours leaves a mark: what was there before is found without a lock.
            async with self._pool.acquire() as connection, connection.transaction():
                if row := await connection.fetchrow(_CLOSING):
                    await connection.execute(_FIND, row["closed"], row["closing"])
                    await connection.execute(_CLOSED, row["closing"])

    async def _advance(self, now: dt.datetime | None) -> None:
        async with self._alone() as connection:
            await connection.execute(_ADVANCE, dt.timedelta(hours=HOURS_AT_ONCE), now)
            if await connection.fetchval("SELECT NOT isfinite(closed) AND isfinite(closing) FROM rollup_state"):
                for statement in _BEGIN:
                    await connection.execute(statement)
                await connection.execute(_BEGUN)

    async def take_marks(self) -> None:
        with translated():
            if not await self._pool.fetchval(_ANY_MARKS):
                return
            async with self._alone() as connection:
                await connection.execute(_TAKE, MARKS_AT_ONCE)
                await connection.execute(_TAKEN)

    async def take_series(self) -> bool:
        """The hours of a series that waits for its turn; False when none does."""
        with translated():
            async with self._pool.acquire() as connection, connection.transaction():
                series_id = await connection.fetchval(_NEXT_SERIES)
                if series_id is None:
                    return False
                for statement in _FORGET_SERIES:
                    await connection.execute(statement, [series_id])
                await connection.execute(_HOURS, series_id)
                await connection.execute(_NO_BACKLOG, series_id)
        return True

    async def compute(self, pieces: int) -> int:
        """How many hours of series were computed, at most `pieces`."""
        with translated():
            async with self._pool.acquire() as connection, connection.transaction():
                if not await connection.fetchval(_MAINTAINER):
                    return 0
                rows = await connection.fetch(_WORK, pieces)
                if rows:
                    ids, hours = [row["series_id"] for row in rows], [row["hour"] for row in rows]
                    for statement in _COMPUTE:
                        await connection.execute(statement, ids, hours)
        return len(rows)

    @asynccontextmanager
    async def _alone(self) -> AsyncIterator[asyncpg.pool.PoolConnectionProxy[asyncpg.Record]]:
        """A transaction while nobody writes readings."""
        async with self._pool.acquire() as connection, connection.transaction():
            await connection.execute(_WAIT)
            await connection.execute(_ALONE)
            yield connection


async def forget_rollups(pool: asyncpg.Pool[asyncpg.Record], series_ids: list[int]) -> None:
    """Of series whose readings are gone and that nobody writes to any more."""
    for statement in (*_FORGET_WORK, *_FORGET_SERIES):
        await pool.execute(statement, series_ids)

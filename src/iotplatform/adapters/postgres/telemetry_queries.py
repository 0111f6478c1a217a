"""Readings and their aggregates as a stream of rows, on connections of their own: heavy queries delay nobody else.

Rows come by a cursor on the server, so that the memory of a result does not depend on its size.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from typing import Final, Self

import asyncpg

from iotplatform.adapters.postgres.connection import CONNECT_TIMEOUT_S, state_of
from iotplatform.adapters.postgres.errors import translated
from iotplatform.adapters.postgres.rollup_queries import bounds_of, level_of, statement
from iotplatform.adapters.postgres.telemetry import value_of
from iotplatform.domain.querying.query import TelemetryQuery
from iotplatform.domain.querying.store import AT_ONCE, Chunk, beyond_numbers
from iotplatform.domain.timestamps import to_datetime, to_microseconds
from iotplatform.observability.instruments import PoolState

# 9999-12-31: PostgreSQL's infinity has no datetime.
_LAST: Final = 253_402_214_400_000_000

# $1 epoch, $2 devices, $3 sensors, $4 since, $5 until, $6 and $7: the series to begin with.
# The series are sorted, and then the rows of each, which comes out of the index: sorted at the end, a result would have
# to be complete before its first row is sent. A lateral join is a nested loop, and that keeps the order.
_SERIES: Final = """
FROM (
    SELECT id, device_id, sensor FROM series
    WHERE epoch = $1
        AND (cardinality($2::text[]) = 0 OR device_id = ANY($2))
        AND (cardinality($3::text[]) = 0 OR sensor = ANY($3))
        AND (device_id, sensor) >= ($6::text, $7::text)
    ORDER BY device_id, sensor
) s CROSS JOIN LATERAL ({inner}) r
"""
# Workers would mix the rows of different series; compiling costs more than most queries.
_PLAN: Final = "SET LOCAL max_parallel_workers_per_gather = 0; SET LOCAL jit = off"
_IN_RANGE: Final = "FROM readings WHERE series_id = s.id AND at >= $4 AND at < $5"

_RAW: Final = f"SELECT kind, at, value, text {_IN_RANGE} ORDER BY at"
_NUMBERS: Final = f"SELECT kind, at, value, text {_IN_RANGE} AND kind < 2 ORDER BY at"
_BOUNDS: Final = f"SELECT min(at) AS first, max(at) AS last {_IN_RANGE}"

_COMPUTED: Final = {
    "count": "count(*)::float8",
    "min": "min(value)",
    "max": "max(value)",
    "avg": "avg(value)",
    "sum": "sum(value)",
    "percentile": "percentile_cont($9) WITHIN GROUP (ORDER BY value)",
}
_PICKED: Final = {"first": "min", "last": "max"}


class TelemetryQueries:
    def __init__(self, pool: asyncpg.Pool[asyncpg.Record]) -> None:
        self._pool = pool

    @classmethod
    async def open(cls, url: str, connections: int) -> Self:
        with translated():
            return cls(await asyncpg.create_pool(url, min_size=0, max_size=connections, timeout=CONNECT_TIMEOUT_S))

    def pool_state(self) -> PoolState:
        return state_of(self._pool)

    def close(self) -> None:
        self._pool.terminate()

    async def bounds(self, epoch: int, query: TelemetryQuery) -> tuple[int, int] | None:
        """The times of the first and the last reading that are asked for; None when there is none.

        Of all series, those before the place of the page too: every page has to see the same range.
        """
        sql = f"SELECT min(r.first) AS first, max(r.last) AS last {_SERIES.format(inner=_BOUNDS)}"
        whole = _arguments(epoch, query)
        with translated():
            row = await self._pool.fetchrow(sql, *whole[:5], "", "")
        if row is None or row["first"] is None:
            return None
        return to_microseconds(row["first"]), to_microseconds(row["last"])

    async def readings(self, epoch: int, query: TelemetryQuery) -> AsyncGenerator[Chunk, None]:
        """By device, sensor and time."""
        inner = _NUMBERS if query.points else _RAW
        sql = f"SELECT s.device_id, s.sensor, r.* {_SERIES.format(inner=inner)}"
        async with self._cursor(sql, _arguments(epoch, query)) as cursor:
            while rows := await cursor.fetch(AT_ONCE):
                yield [(row[0], row[1], to_microseconds(row["at"]), value_of(row)) for row in rows]

    async def aggregates(
        self, epoch: int, query: TelemetryQuery, starts: list[int] | None
    ) -> AsyncGenerator[Chunk, None]:
        """By device, sensor and start of the interval; those without a value are left out.

        `starts` are the intervals' where they have no fixed length.
        """
        assert query.aggregate is not None  # noqa: S101 - what the caller asks for
        name, share = query.aggregate.name, query.aggregate.share
        arguments = _arguments(epoch, query)
        if starts is None:
            assert query.interval is not None  # noqa: S101
            assert query.interval.fixed_us is not None  # noqa: S101
            bucket = "date_bin($8::interval, at, 'epoch'::timestamptz)"
            arguments.append(dt.timedelta(microseconds=query.interval.fixed_us))
        else:
            # Without an interval there is one, and a rollup may begin before its first reading does.
            which = "1" if query.interval is None else "width_bucket(at, $8::timestamptz[])"
            bucket = f"($8::timestamptz[])[{which}]"
            arguments.append([to_datetime(start) for start in starts])
        if level := level_of(query, starts):
            since, until = 0 if query.since is None else query.since, _LAST if query.until is None else query.until
            arguments += [to_datetime(bound) for bound in bounds_of(since, until)]
            sql = statement(name, bucket, level)
        else:
            if share is not None:
                arguments.append(share)
            sql = f"SELECT s.device_id, s.sensor, r.* {_SERIES.format(inner=_inner(name, bucket))}"
        async with self._cursor(sql, arguments) as cursor:
            while rows := await cursor.fetch(AT_ONCE):
                yield [
                    (
                        row[0],
                        row[1],
                        to_microseconds(row["bucket"]),
                        int(row["value"]) if name == "count" else value_of(row),
                    )
                    for row in rows
                    # What was written since the intervals were made, and lies before the first of them.
                    if row["bucket"] is not None
                ]

    @asynccontextmanager
    async def _cursor(self, sql: str, arguments: list[object]) -> AsyncIterator[asyncpg.cursor.Cursor[asyncpg.Record]]:
        try:
            with translated():
                async with self._pool.acquire() as connection, connection.transaction(readonly=True):
                    await connection.execute(_PLAN)
                    yield await connection.cursor(sql, *arguments)
        except asyncpg.NumericValueOutOfRangeError as error:
            raise beyond_numbers() from error


def _inner(name: str, bucket: str) -> str:
    if picked := _PICKED.get(name):
        found = f"SELECT {bucket} AS bucket, {picked}(at) AS at {_IN_RANGE} GROUP BY 1"
        reading = "JOIN readings c ON c.series_id = s.id AND c.at = b.at"
        return f"SELECT b.bucket, c.kind, c.value, c.text FROM ({found}) b {reading} ORDER BY 1"  # noqa: S608 - ours
    value = _COMPUTED[name]
    return (
        f"SELECT {bucket} AS bucket, 0::smallint AS kind, {value} AS value, NULL::text AS text "
        f"{_IN_RANGE} GROUP BY 1 HAVING {value} IS NOT NULL ORDER BY 1"
    )


def _arguments(epoch: int, query: TelemetryQuery) -> list[object]:
    device_id, sensor, _ = query.after or ("", "", 0)
    return [
        epoch,
        list(query.device_ids),
        list(query.sensors),
        to_datetime(0 if query.since is None else query.since),
        to_datetime(_LAST if query.until is None else query.until),
        device_id,
        sensor,
    ]

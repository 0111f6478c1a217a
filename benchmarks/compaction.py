"""Old readings in far less space, a prototype: `python benchmarks/compaction.py [--days 2] [--series 10]`.

One-second readings in PostgreSQL as they are kept today (rows, and an index without gaps), as arrays for each series
and hour, which PostgreSQL compresses by itself (the embedded one by pglz only), and as Parquet (pyarrow) for each
series and day in a `bytea`. Of each: bytes per reading all in, how long making it takes, and one day of one series
averaged per minute. Values are a curve in steps of a hundredth, as sensors give them, and with noise in every digit.
"""

from __future__ import annotations

import argparse
import asyncio
import datetime as dt
import io
import statistics
import time
from collections.abc import Awaitable, Callable

import asyncpg
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from stack import say, stack

DAY_S = 86_400
START = dt.datetime(2026, 3, 2, tzinfo=dt.UTC)
ASKED = 9

_ROWS = """
CREATE TABLE plain (series_id int, kind smallint, at timestamptz, value double precision, position bigint, text text);
INSERT INTO plain (series_id, kind, at, value, position)
SELECT s, 0, '{start}'::timestamptz + n * interval '1 second' + floor(random() * 900) * interval '1 millisecond',
    {value}, n / 5
FROM generate_series(0, {seconds} - 1) AS n, generate_series(1, {series}) AS s;
ALTER TABLE plain ADD PRIMARY KEY (series_id, at) WITH (fillfactor = 100);
VACUUM ANALYZE plain
"""
_WALK = "20 + round((5 * sin((n + 977 * s) / 3000.0) + random() * 0.05)::numeric, 2)::float8"
_NOISE = "20 + 5 * sin((n + 977 * s) / 3000.0) + random() * 0.05"
# The times as differences to the hour, in milliseconds or finer as they are; 4 bytes hold an hour of microseconds.
_ARRAYS = """
CREATE TABLE hours (
    series_id int, hour timestamptz, at int[], value float8[],
    position bigint[], PRIMARY KEY (series_id, hour)
);
INSERT INTO hours
SELECT series_id, hour, array_agg((extract(epoch FROM at - hour) * 1e6 - 2147483648)::int ORDER BY at),
    array_agg(value ORDER BY at), array_agg(position ORDER BY at)
FROM (SELECT *, date_bin('1 hour', at, 'epoch'::timestamptz) AS hour FROM plain) p GROUP BY 1, 2;
VACUUM ANALYZE hours
"""
_MINUTES_OF_ROWS = """
SELECT date_bin('1 minute', at, 'epoch'::timestamptz), avg(value) FROM plain
WHERE series_id = 1 AND at >= $1 AND at < $2 GROUP BY 1
"""
_MINUTES_OF_ARRAYS = """
SELECT hour + (r.at + 2147483648) / 60000000 * interval '1 minute', avg(r.value)
FROM hours, unnest(at, value) AS r(at, value) WHERE series_id = 1 AND hour >= $1 AND hour < $2 GROUP BY 1
"""
_DAY = "SELECT at, value, position FROM plain WHERE series_id = $1 AND at >= $2 AND at < $3 ORDER BY at"


async def timed(ask: Callable[[], Awaitable[int]]) -> float:
    took = []
    for _ in range(ASKED):
        began = time.perf_counter()
        assert await ask() == DAY_S // 60
        took.append(time.perf_counter() - began)
    return round(statistics.median(took) * 1e3, 1)


async def tell(
    connection: asyncpg.Connection, way: str, table: str, rows: int, made_s: float, ask: Callable[[], Awaitable[int]]
) -> None:
    size = await connection.fetchval("SELECT pg_total_relation_size($1::regclass)", table)
    say(
        way=way,
        bytes_per_reading=round(size / rows, 1),
        readings_per_s_made=round(rows / made_s),
        day_by_minute_p50_ms=await timed(ask),
    )


def packed(rows: list[asyncpg.Record]) -> bytes:
    table = pa.table(
        {
            "at": pa.array([row[0] for row in rows], pa.timestamp("us", "UTC")),
            "value": pa.array([row[1] for row in rows], pa.float64()),
            "position": pa.array([row[2] for row in rows], pa.int64()),
        }
    )
    out = io.BytesIO()
    encodings = {"at": "DELTA_BINARY_PACKED", "value": "BYTE_STREAM_SPLIT", "position": "DELTA_BINARY_PACKED"}
    pq.write_table(table, out, compression="zstd", use_dictionary=False, column_encoding=encodings)
    return out.getvalue()


async def parquet(connection: asyncpg.Connection, arguments: argparse.Namespace, rows: int) -> None:
    began = time.perf_counter()
    await connection.execute(
        "CREATE TABLE days (series_id int, day timestamptz, readings bytea, PRIMARY KEY (series_id, day));"
        "ALTER TABLE days ALTER readings SET STORAGE EXTERNAL"
    )
    for series in range(1, arguments.series + 1):
        for number in range(arguments.days):
            since = START + dt.timedelta(days=number)
            found = await connection.fetch(_DAY, series, since, since + dt.timedelta(days=1))
            await connection.execute("INSERT INTO days VALUES ($1, $2, $3)", series, since, packed(found))
    made_s = time.perf_counter() - began
    await connection.execute("VACUUM ANALYZE days")

    async def ask() -> int:
        body = await connection.fetchval("SELECT readings FROM days WHERE series_id = 1 AND day = $1", START)
        table = pq.read_table(io.BytesIO(body), columns=["at", "value"])
        minute = pc.floor_temporal(table["at"], unit="minute")
        return int(table.set_column(0, "at", minute).group_by("at").aggregate([("value", "mean")]).num_rows)

    await tell(connection, "parquet, zstd, a day", "days", rows, made_s, ask)
    await connection.execute("DROP TABLE days")


async def run(url: str, arguments: argparse.Namespace) -> None:
    connection = await asyncpg.connect(url, timeout=10, command_timeout=600)
    end = START + dt.timedelta(days=1)
    rows = arguments.days * DAY_S * arguments.series

    async def minutes(sql: str) -> int:
        return len(await connection.fetch(sql, START, end))

    for name, value in (("hundredths", _WALK), ("noise", _NOISE)):
        say(values=name, readings=rows)
        began = time.perf_counter()
        filling = _ROWS.format(
            start=START.isoformat(), value=value, seconds=arguments.days * DAY_S, series=arguments.series
        )
        for statement in filling.split(";\n"):
            await connection.execute(statement)
        await tell(connection, "rows", "plain", rows, time.perf_counter() - began, lambda: minutes(_MINUTES_OF_ROWS))
        began = time.perf_counter()
        for statement in _ARRAYS.split(";\n"):
            await connection.execute(statement)
        made_s = time.perf_counter() - began
        await tell(connection, "arrays, pglz, an hour", "hours", rows, made_s, lambda: minutes(_MINUTES_OF_ARRAYS))
        await connection.execute("DROP TABLE hours")
        await parquet(connection, arguments, rows)
        await connection.execute("DROP TABLE plain")
    await connection.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--days", type=int, default=2)
    parser.add_argument("--series", type=int, default=10)
    arguments = parser.parse_args()
    with stack() as platform:
        asyncio.run(run(platform.urls["postgres"], arguments))


if __name__ == "__main__":
    main()

"""How long queries take while readings arrive: `python benchmarks/queries.py [--rate 10000] [--seconds 8] [--rows 0]`.

The latest values of 100 devices, and of one day of one-second data of one series: all of it as NDJSON, averaged per
minute (its pages together), and as 500 points. One client asks one question after the other. With `--rows` so many
readings of one series are then streamed as NDJSON: how long, and the most memory that the server's Python process had
above what it had before.
With `--every 60` 100 devices have a reading a minute for 30 days, persistence makes their rollups, and they are
averaged per day and per hour over all of it. The load generator and this program share the cores with the platform.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import time
from collections.abc import Awaitable, Callable

import asyncpg
import httpx
import psutil
from stack import Stack, result, say, stack

DAY = 86_400
START = 1_700_006_400
BATCH = 100
MONTH_DEVICES = 100
HISTORY = "/organizations/history/telemetry"
_FILL = """
INSERT INTO readings (series_id, kind, at, value, position)
SELECT $1, 0, to_timestamp($2 + n), 20 + sin(n / 500.0) + random(), 1 FROM generate_series(0, $3 - 1) AS n
"""
_FILL_MONTH = """
INSERT INTO readings (series_id, kind, at, value, position)
SELECT s, 0, to_timestamp($2 + n * $3::int), 20 + sin(n / 500.0) + random(), 1
FROM generate_series(0, $4::int - 1) AS n, unnest($1::int[]) AS s
"""


async def fill(platform: Stack, device_id: str, rows: int) -> None:
    connection = await asyncpg.connect(platform.urls["postgres"])
    epoch = await connection.fetchval("SELECT epoch FROM organizations WHERE id = 'history'")
    series = await connection.fetchval(
        "INSERT INTO series (epoch, device_id, sensor) VALUES ($1, $2, 'temp') RETURNING id", epoch, device_id
    )
    await connection.execute(_FILL, series, START, rows, timeout=600)
    await connection.execute("ANALYZE readings")
    await connection.close()


async def get(client: httpx.AsyncClient, path: str, **parameters: object) -> dict[str, object]:
    answer = await client.get(path, params=parameters)  # type: ignore[arg-type]
    answer.raise_for_status()
    found: dict[str, object] = answer.json()
    return found


async def latest(client: httpx.AsyncClient) -> None:
    found = await get(client, "/organizations/bench/telemetry/latest", limit=100)
    assert len(found["items"]) == 100  # type: ignore[arg-type]


async def raw(client: httpx.AsyncClient) -> None:
    answer = await client.get(HISTORY, params={"device_id": "day"}, headers={"accept": "application/x-ndjson"})
    assert answer.content.count(b"\n") == DAY


async def minutes(client: httpx.AsyncClient) -> None:
    found, cursor = 0, {}
    while True:
        page = await get(client, HISTORY, device_id="day", aggregate="avg", interval="1m", limit=1_000, **cursor)
        found += len(page["items"])  # type: ignore[arg-type]
        if page["next_cursor"] is None:
            break
        cursor = {"cursor": page["next_cursor"]}
    assert found == DAY // 60


async def points(client: httpx.AsyncClient) -> None:
    found = await get(client, HISTORY, device_id="day", points=500, limit=1_000)
    assert len(found["items"]) == 500  # type: ignore[arg-type]


def over_a_month(interval: str, number: int) -> Callable[[httpx.AsyncClient], Awaitable[None]]:
    until = int(time.time()) // DAY * DAY
    asked: dict[str, str | int] = {"from": until - 30 * DAY, "to": until, "aggregate": "avg", "interval": interval}

    async def ask(client: httpx.AsyncClient) -> None:
        answer = await client.get(
            "/organizations/month/telemetry",
            params=asked,
            headers={"accept": "application/x-ndjson"},
        )
        answer.raise_for_status()
        items = answer.content.count(b"\n")
        assert items == number * MONTH_DEVICES, (items, answer.content[-200:])

    ask.__name__ = f"30 days, {MONTH_DEVICES} devices, {interval}"
    return ask


async def fill_month(platform: Stack, every_s: int) -> None:
    """Up to last midnight; done when persistence has made the rollups."""
    connection = await asyncpg.connect(platform.urls["postgres"])
    began = time.perf_counter()
    epoch = await connection.fetchval("SELECT epoch FROM organizations WHERE id = 'month'")
    made = (
        "INSERT INTO series (epoch, device_id, sensor) SELECT $1, 'd' || n, 'temp' FROM generate_series(1, $2::int) n"
        " RETURNING id"
    )
    until = int(time.time()) // DAY * DAY
    rows = 30 * DAY // every_s
    async with connection.transaction():
        ids = [row[0] for row in await connection.fetch(made, epoch, MONTH_DEVICES)]
        # What is written directly leaves no marks: so the series wait for their turn from the start.
        await connection.execute(_FILL_MONTH, ids, until - 30 * DAY, every_s, rows, timeout=600)
        await connection.execute("INSERT INTO rollup_backlog SELECT unnest($1::int[]) ON CONFLICT DO NOTHING", ids)
    await connection.execute("ANALYZE readings")
    say(readings=rows * len(ids), filled_in_s=round(time.perf_counter() - began, 1))
    began = time.perf_counter()
    waits = "SELECT EXISTS (SELECT FROM rollup_backlog) OR EXISTS (SELECT FROM rollup_work)"
    while await connection.fetchval(waits):  # noqa: ASYNC110 - another process does it
        await asyncio.sleep(0.5)
    await connection.execute("ANALYZE")
    say(rollups_made_in_s=round(time.perf_counter() - began, 1))
    await connection.close()


async def measure(
    client: httpx.AsyncClient, ask: Callable[[httpx.AsyncClient], Awaitable[None]], seconds: float
) -> None:
    took: list[float] = []
    until = time.perf_counter() + seconds
    while time.perf_counter() < until or len(took) < 5:
        began = time.perf_counter()
        await ask(client)
        took.append(time.perf_counter() - began)
    took.sort()
    p99 = took[min(len(took) - 1, int(len(took) * 0.99))]
    say(
        query=ask.__name__,
        asked=len(took),
        p50_ms=round(statistics.median(took) * 1e3, 1),
        p99_ms=round(p99 * 1e3, 1),
    )


async def stream(platform: Stack, client: httpx.AsyncClient, rows: int) -> None:
    await fill(platform, "long", rows)
    server = psutil.Process(platform.process.pid)
    before = most = server.memory_info().rss
    began, lines = time.perf_counter(), 0
    asked = {"params": {"device_id": "long"}, "headers": {"accept": "application/x-ndjson"}}
    async with client.stream("GET", HISTORY, **asked) as answer:  # type: ignore[arg-type]
        async for part in answer.aiter_bytes():
            lines += part.count(b"\n")
            most = max(most, server.memory_info().rss)
    assert lines == rows
    took = time.perf_counter() - began
    say(
        streamed=rows,
        seconds=round(took, 1),
        rows_per_s=round(rows / took),
        more_memory_mb=round((most - before) / 1e6, 1),
    )


async def run(platform: Stack, arguments: argparse.Namespace) -> None:
    platform.make("/organizations", {"id": "history", "name": "history"})
    platform.organizations("bench", 1)
    asked = [latest, raw, minutes, points]
    if arguments.every:
        platform.make("/organizations", {"id": "month", "name": "month"})
        await fill_month(platform, arguments.every)
        asked = [over_a_month("1d", 30), over_a_month("1h", 720)]
    else:
        await fill(platform, "day", DAY)
    async with httpx.AsyncClient(base_url=platform.urls["management"], timeout=600) as client:
        seconds = len(asked) * arguments.seconds + 5
        load = platform.load(batch=BATCH, rate=arguments.rate / BATCH, seconds=seconds, devices=100, connections=16)
        await asyncio.sleep(3)
        for ask in asked:
            await measure(client, ask, arguments.seconds)
        figures = await asyncio.to_thread(result, load)
        say(readings_per_s_meanwhile=figures["readings_per_s"], statuses=figures["statuses"])
        if arguments.rows:
            await stream(platform, client, arguments.rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rate", type=float, default=10_000, help="readings a second that arrive meanwhile")
    parser.add_argument("--seconds", type=float, default=8, help="for each kind of query")
    parser.add_argument("--rows", type=int, default=0)
    parser.add_argument("--every", type=int, default=0, help="seconds between the readings of a month; 0: no month")
    arguments = parser.parse_args()
    with stack(query__deadline_s="600") as platform:
        asyncio.run(run(platform, arguments))


if __name__ == "__main__":
    main()

"""What storing costs: `python benchmarks/storage.py [--readings 2000000] [--series 10000] [--store postgres]`.

Rows per second into each store, through what persistence commits with (two commits at a time, as it has them), and the
bytes of a reading on disk, index and all: while its month goes on, and after it was packed or compacted. The readings
exist before the clock starts. Beside the rate over all that of the slowest five seconds. InfluxDB is left out where no
`influxd` is installed.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import datetime as dt
import random
import shutil
import subprocess
import tempfile
import time
from contextlib import AsyncExitStack
from pathlib import Path

import asyncpg
import httpx

from iotplatform.adapters.embedded import DataDirectory, EmbeddedServers, EmbeddedSettings
from iotplatform.adapters.influx.settings import InfluxSettings
from iotplatform.adapters.postgres.connection import Database
from iotplatform.adapters.postgres.directory import Directory
from iotplatform.adapters.postgres.migrations import migrate
from iotplatform.adapters.postgres.packing import pack_one
from iotplatform.adapters.postgres.persistence import PartitionWork
from iotplatform.adapters.postgres.reading_partitions import PartitionMaker, month_of
from iotplatform.app.telemetry import open_block_store, open_telemetry
from iotplatform.domain.reading import Reading
from iotplatform.domain.telemetry import Entry
from iotplatform.domain.timestamps import to_microseconds
from iotplatform.observability.metrics import Metrics
from iotplatform.roles.persistence.stores import BlockStore

# Of the month before, which is over and can be packed: there is a partition for it, as there was while it went on.
LAST_MONTH = month_of(month_of(dt.datetime.now(dt.UTC)) - dt.timedelta(days=1))
START_US = to_microseconds(LAST_MONTH)
WRITERS = 2
INFLUX_PORT = 28_086
WINDOW_S = 5
COMPACTED_WITHIN_S = 40


async def make_last_month(url: str) -> None:
    connection = await asyncpg.connect(url)
    await PartitionMaker().make(connection, LAST_MONTH)
    await connection.close()


async def make(database: Database) -> int:
    epoch: int = await database.pool.fetchval(
        "INSERT INTO organizations (id, name, partitions) VALUES (gen_random_uuid()::text, 'x', $1) RETURNING epoch",
        WRITERS,
    )
    for number in range(WRITERS):
        await database.pool.execute("INSERT INTO partitions (epoch, number) VALUES ($1, $2)", epoch, number)
    return epoch


def commits(readings: int, series: int, size: int, writer: int) -> list[list[Entry]]:
    """One reading of each series a second; the values are random walks of two decimals."""
    chance = random.Random(writer)
    names = [(f"machine-{number // 10:04}", f"temp{number % 10}") for number in range(writer, series, WRITERS)]
    values = [70.0] * len(names)
    entries: list[Entry] = []
    for number in range(readings // WRITERS):
        turn, which = divmod(number, len(names))
        values[which] = round(values[which] + chance.uniform(-1, 1), 2)
        at = START_US + turn * 1_000_000 + chance.randrange(1_000_000)
        entries.append((Reading(*names[which], values[which], at), number // 500 + 1))
    return [entries[start : start + size] for start in range(0, len(entries), size)]


async def store(blocks: BlockStore, epoch: int, work: list[list[list[Entry]]]) -> str:
    """The rates, as they are printed."""
    windows: dict[int, int] = {}

    async def write(writer: int) -> None:
        for number, entries in enumerate(work[writer]):
            await blocks.store([PartitionWork(epoch, writer, number, number + 1, readings=entries)])
            window = int((time.perf_counter() - began) / WINDOW_S)
            windows[window] = windows.get(window, 0) + len(entries)

    began = time.perf_counter()
    await asyncio.gather(*(write(writer) for writer in range(WRITERS)))
    took = time.perf_counter() - began
    rate = f"{sum(windows.values()) / took:9,.0f} rows/s for {took:.0f} s"
    whole = [windows.get(window, 0) / WINDOW_S for window in range(int(took / WINDOW_S))]
    return f"{rate}, {min(whole):,.0f} in the slowest {WINDOW_S}" if whole else rate


async def measure_postgres(url: str, database: Database, stack: AsyncExitStack, work: list[list[list[Entry]]]) -> None:
    telemetry = await open_telemetry(None, database, Directory(database), stack)
    blocks = await open_block_store(url, telemetry, Metrics(), stack)
    print(f"postgres  {await store(blocks, await make(database), work)}", flush=True)
    connection = await asyncpg.connect(url)
    try:
        await print_size(connection, "live  ")
        now = dt.datetime.now(dt.UTC)
        await PartitionMaker().make(connection, now)
        while await pack_one(connection, now):
            pass
        await print_size(connection, "packed")
    finally:
        await connection.close()


async def print_size(connection: asyncpg.Connection[asyncpg.Record], state: str) -> None:
    """Of everything there is of `readings`: rows, index, maps of free and visible pages, empty partitions."""
    count, heap, everything = await connection.fetchrow(  # type: ignore[misc]
        "SELECT (SELECT count(*) FROM readings), sum(pg_relation_size(relid)), sum(pg_total_relation_size(relid)) "
        "FROM pg_partition_tree('readings') WHERE isleaf"
    )
    size = f"{everything / count:6.1f} bytes per reading ({heap / count:.1f} without the index)"
    print(f"  {state}  {size}", flush=True)


async def measure_influx(
    url: str, database: Database, folder: Path, stack: AsyncExitStack, work: list[list[list[Entry]]]
) -> None:
    file = folder / "influxdb.conf"
    file.write_text(
        f'reporting-disabled = true\nbind-address = "127.0.0.1:0"\n[meta]\ndir = "{folder}/meta"\n[monitor]\n'
        f'store-enabled = false\n[data]\ndir = "{folder}/data"\nwal-dir = "{folder}/wal"\n'
        'cache-snapshot-write-cold-duration = "2s"\ncompact-full-write-cold-duration = "2s"\n'
        f'[http]\nbind-address = "127.0.0.1:{INFLUX_PORT}"\nlog-enabled = false\n'
    )
    server = await asyncio.create_subprocess_exec("influxd", "-config", str(file), stderr=subprocess.DEVNULL)
    at = f"http://127.0.0.1:{INFLUX_PORT}"
    try:
        async with httpx.AsyncClient() as client:
            for _ in range(100):
                try:
                    await client.post(f"{at}/query", data={"q": "CREATE DATABASE bench"})
                    break
                except httpx.TransportError:
                    await asyncio.sleep(0.1)
        settings = InfluxSettings(at, "bench", api="v1")
        telemetry = await open_telemetry(settings, database, Directory(database), stack)
        blocks = await open_block_store(url, telemetry, Metrics(), stack)
        print(f"influxdb  {await store(blocks, await make(database), work)}", flush=True)
        count = sum(len(entries) for each in work for entries in each)
        print(f"  live    {used_by(folder) / count:6.1f} bytes per reading", flush=True)
        print(f"  compact {await compacted(folder) / count:6.1f} bytes per reading", flush=True)
    finally:
        server.terminate()
        await server.wait()


def used_by(folder: Path) -> int:
    sizes = 0
    for path in (path for part in ("data", "wal") for path in (folder / part).rglob("*")):
        with contextlib.suppress(FileNotFoundError):  # compaction goes on
            sizes += path.stat().st_size if path.is_file() else 0
    return sizes


async def compacted(folder: Path) -> int:
    """When it has not changed for five seconds; a shard that nobody writes to is compacted after two of them here."""
    sizes = [used_by(folder)]
    for _ in range(COMPACTED_WITHIN_S):
        await asyncio.sleep(1)
        sizes.append(used_by(folder))
        if len(sizes) > 12 and len(set(sizes[-5:])) == 1:
            break
    return sizes[-1]


async def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--readings", type=int, default=2_000_000)
    parser.add_argument("--series", type=int, default=10_000)
    parser.add_argument("--commit", type=int, default=10_000)
    parser.add_argument("--store", choices=("both", "postgres", "influx"), default="both")
    options = parser.parse_args()
    work = [commits(options.readings, options.series, options.commit, writer) for writer in range(WRITERS)]
    with tempfile.TemporaryDirectory() as folder, DataDirectory.open(Path(folder) / "data") as directory:
        servers = EmbeddedServers(directory, EmbeddedSettings(nats_port=0, nats_monitor_port=0, mqtt_port=0))
        urls = await servers.start()
        assert urls.postgres is not None
        async with AsyncExitStack() as stack:
            stack.push_async_callback(servers.stop)
            await migrate(urls.postgres)
            await make_last_month(urls.postgres)
            database = await Database.open(urls.postgres)
            stack.push_async_callback(database.close)
            if options.store != "influx":
                await measure_postgres(urls.postgres, database, stack, work)
            if options.store != "postgres" and shutil.which("influxd"):
                influx = Path(folder) / "influx"
                influx.mkdir()
                await measure_influx(urls.postgres, database, influx, stack, work)


if __name__ == "__main__":
    asyncio.run(main())

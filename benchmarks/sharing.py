"""How much faster two processes of analysis work off a backlog than one, beside each other in one run.

    .venv/bin/python benchmarks/sharing.py --seconds 10 --rounds 3

For each number of processes: a platform of its own (management with the embedded servers, analysis in processes beside
it), an organization of 8 partitions, a backlog of blocks published before analysis is there. Once every process holds
its share, the readings that the positions in Redis pass are counted for some seconds. Prints one JSON line per
measurement and one per number of processes; `ran_dry` says that the backlog was over before the time: give more blocks.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import re
import secrets
import signal
import statistics
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

import asyncpg
import httpx
import uvloop
from redis.asyncio import Redis

from iotplatform.adapters.nats.connection import Connection
from iotplatform.adapters.nats.headers import BlockHeaders
from iotplatform.adapters.nats.publisher import Publisher
from iotplatform.domain.reading import FORMAT_VERSION, Reading, encode_readings, join_block
from iotplatform.observability.metrics import Metrics
from iotplatform.runtime.rendezvous import owner_of
from iotplatform.runtime.tasks import Tasks

ORGANIZATION = "bench"
PARTITIONS = 8
DEVICES = 50
PUBLISHED_AT_ONCE = 200
PORTS = ("INGEST__PORT", "MANAGEMENT__PORT", "OPERATIONS__PORT", "EMBEDDED__NATS_PORT", "EMBEDDED__NATS_MONITOR_PORT")
READY_S = 60.0


class Process:
    """`iotplatform serve`, ready."""

    def __init__(self, process: asyncio.subprocess.Process, urls: dict[str, str]) -> None:
        self._process = process
        self.urls = urls

    @classmethod
    async def start(cls, data_dir: Path, roles: str, **settings: str) -> Process:
        environment = {
            **os.environ,
            **{f"IOTPLATFORM_{name}": "0" for name in PORTS},
            **{f"IOTPLATFORM_{name}": value for name, value in settings.items()},
        }
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "iotplatform",
            "serve",
            f"--roles={roles}",
            "--data-dir",
            str(data_dir),
            env=environment,
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.DEVNULL,
        )
        file = data_dir / "runtime.json"
        async with asyncio.timeout(READY_S):
            while not file.exists():
                if process.returncode is not None:
                    raise SystemExit(f"{roles} ended with {process.returncode} before it was ready")
                await asyncio.sleep(0.05)
        return cls(process, json.loads(file.read_text()))

    async def stop(self) -> None:
        if self._process.returncode is None:
            self._process.send_signal(signal.SIGTERM)
        await self._process.wait()

    async def held(self) -> int:
        async with httpx.AsyncClient() as client:
            text = (await client.get(f"{self.urls['operations']}/metrics")).text
        found = re.search(r'^iotplatform_partitions_held\{role="analysis"\} (\S+)$', text, re.MULTILINE)
        return int(float(found[1])) if found else 0


class Backlog:
    """Blocks of as many readings each, in every partition. Three series in four are quiet, one breaches and clears."""

    def __init__(self, blocks: int, readings: int) -> None:
        self.blocks = blocks
        self.readings = readings
        # The stream sequences of each partition's blocks.
        self.sequences: list[list[int]] = [[] for _ in range(PARTITIONS)]

    async def publish(self, nats_url: str, epoch: int) -> None:
        connection = Connection(nats_url, Metrics())
        publisher = Publisher(connection)
        await publisher.start()
        tasks = Tasks("benchmark")
        tasks.start(connection.run(), "nats")
        if not await connection.wait_connected(30):
            raise SystemExit("NATS is not reachable")
        try:
            for first in range(1, self.blocks // PARTITIONS + 1, PUBLISHED_AT_ONCE // PARTITIONS):
                numbers = range(first, min(first + PUBLISHED_AT_ONCE // PARTITIONS, self.blocks // PARTITIONS + 1))
                await asyncio.gather(
                    *(
                        self._publish(publisher, epoch, partition, number)
                        for number in numbers
                        for partition in range(PARTITIONS)
                    )
                )
        finally:
            await tasks.stop()
        for sequences in self.sequences:
            sequences.sort()

    async def _publish(self, publisher: Publisher, epoch: int, partition: int, number: int) -> None:
        began = (1_700_000_000 + number) * 1_000_000
        readings = [
            Reading(
                f"device-{partition}-{index % DEVICES}",
                "temp" if index % 4 == 0 else "pressure",
                95.0 if number // 10 % 20 == 0 else 20.0 + index % 7,
                began + index,
            )
            for index in range(self.readings)
        ]
        headers = BlockHeaders(
            FORMAT_VERSION, f"bench-{partition}", number, self.readings, number * self.readings, began
        )
        ack = await publisher.publish(
            f"readings.{ORGANIZATION}.{epoch}.{partition}.http",
            join_block([encode_readings(readings)], self.readings),
            headers.encode(),
            timeout_s=60,
        )
        self.sequences[partition].append(ack.seq)

    def passed(self, positions: list[int]) -> int:
        """How many readings lie at or below these positions."""
        return self.readings * sum(
            sum(sequence <= position for sequence in sequences)
            for sequences, position in zip(self.sequences, positions, strict=True)
        )


def worker_directories(folder: Path, processes: int, epoch: int) -> list[Path]:
    """Data directories with ids under which all have equally many partitions: it is not luck that is measured."""
    even = False
    ids: list[str] = []
    while not even:
        ids = [secrets.token_hex(8) for _ in range(processes)]
        shares = Counter(owner_of(f"analysis/{epoch}/{number}", ids) for number in range(PARTITIONS))
        even = set(shares.values()) == {PARTITIONS // processes}
    directories = [folder / f"worker-{member}" for member in ids]
    for member, directory in zip(ids, directories, strict=True):
        (directory / "secrets").mkdir(parents=True, mode=0o700)
        (directory / "secrets" / "member").write_text(member)
    return directories


async def positions_of(redis: Redis, epoch: int) -> list[int]:
    found = [await redis.hget(f"iot:{epoch}:{number}:head", "position") for number in range(PARTITIONS)]  # type: ignore[misc]
    return [int(position or 0) for position in found]


async def measure(processes: int, arguments: argparse.Namespace) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        main = await Process.start(folder / "main", "management", STREAMS__MAX_BYTES=str(16 << 30))
        workers: list[Process] = []
        redis = Redis.from_url(main.urls["redis"])
        try:
            async with httpx.AsyncClient(base_url=main.urls["management"]) as client:
                made = await client.post(
                    "/organizations", json={"id": ORGANIZATION, "name": "Bench", "partitions": PARTITIONS}
                )
                made.raise_for_status()
            epoch = await epoch_of(main.urls["postgres"])
            backlog = Backlog(arguments.blocks, arguments.readings)
            await backlog.publish(main.urls["nats"], epoch)
            urls = {f"{name.upper()}__URL": main.urls[name] for name in ("nats", "postgres", "redis")}
            directories = worker_directories(folder, processes, epoch)
            workers = await asyncio.gather(*(Process.start(directory, "analysis", **urls) for directory in directories))
            shares = await until_shared(workers)
            await until_all_work(redis, epoch)
            return await count(redis, epoch, backlog, arguments.seconds) | {"processes": processes, "shares": shares}
        finally:
            await redis.aclose()
            await asyncio.gather(*(worker.stop() for worker in workers))
            await main.stop()


async def epoch_of(postgres_url: str) -> int:
    connection = await asyncpg.connect(postgres_url)
    try:
        return int(await connection.fetchval("SELECT epoch FROM organizations WHERE id = $1", ORGANIZATION))
    finally:
        await connection.close()


async def until_shared(workers: list[Process]) -> list[int]:
    async with asyncio.timeout(READY_S):
        while True:
            held = [await worker.held() for worker in workers]
            if sum(held) == PARTITIONS and all(held):
                return held
            await asyncio.sleep(0.05)


async def until_all_work(redis: Redis, epoch: int) -> None:
    """Every partition has moved since it was shared out."""
    before = await positions_of(redis, epoch)
    async with asyncio.timeout(READY_S):
        while not all(  # noqa: ASYNC110 - other processes
            now > then for now, then in zip(await positions_of(redis, epoch), before, strict=True)
        ):
            await asyncio.sleep(0.02)


async def count(redis: Redis, epoch: int, backlog: Backlog, seconds: float) -> dict[str, Any]:
    began, first = time.perf_counter(), backlog.passed(await positions_of(redis, epoch))
    last, took, ran_dry = first, 0.0, False
    while took < seconds and not ran_dry:
        await asyncio.sleep(0.1)
        positions = await positions_of(redis, epoch)
        took, last = time.perf_counter() - began, backlog.passed(positions)
        # From the first partition that is finished on, somebody may have nothing to do.
        ran_dry = any(
            position >= sequences[-1] for sequences, position in zip(backlog.sequences, positions, strict=True)
        )
    return {"readings_per_s": round((last - first) / took), "seconds": round(took, 1), "ran_dry": ran_dry}


async def run(arguments: argparse.Namespace) -> None:
    rates: dict[int, list[int]] = {1: [], 2: []}
    for number in range(arguments.rounds):
        for processes, found in rates.items():
            result = await measure(processes, arguments)
            found.append(result["readings_per_s"])
            print(json.dumps({"benchmark": "sharing", "round": number, **result}), flush=True)
    for processes, found in rates.items():
        print(
            json.dumps(
                {
                    "benchmark": "sharing",
                    "figure": "analysis_readings_per_s",
                    "processes": processes,
                    "median": round(statistics.median(found)),
                    "cores": os.cpu_count(),
                }
            )
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=10)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--blocks", type=int, default=24_000, help="in all partitions together")
    parser.add_argument("--readings", type=int, default=500, help="in each block")
    uvloop.run(run(parser.parse_args()))


if __name__ == "__main__":
    main()

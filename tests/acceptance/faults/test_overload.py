"""Several times the load that can be taken: bounded memory, clear refusals, nothing lost, and recovery by itself."""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path

import psutil
import pytest

from tests.support.platform import REPOSITORY, Platform, eventually

CONNECTIONS = 192
SECONDS = 10
# What bodies, lanes and readers may hold together, with room for what their decoding takes.
MOST_MB = 600


@pytest.mark.timeout(300)
async def test_memory_stays_bounded_and_nothing_accepted_is_lost(tmp_path: Path) -> None:
    platform = await Platform.start(tmp_path / "data", strict=False)
    process = psutil.Process(platform.process.pid)
    async with platform.client() as client:
        assert (await client.post("/organizations", json={"id": "flood", "name": "Flood"})).status_code == 201
    load = await asyncio.create_subprocess_exec(
        sys.executable,
        str(REPOSITORY / "benchmarks" / "load.py"),
        *("--url", platform.urls["ingest"], "--organization", "flood", "--batch", "1000"),
        *("--connections", str(CONNECTIONS), "--seconds", str(SECONDS)),
        stdout=asyncio.subprocess.PIPE,
    )
    watched = asyncio.get_running_loop().create_task(highest_mb(process))
    output, _ = await load.communicate()
    watched.cancel()
    figures = json.loads(output)

    assert set(figures["statuses"]) <= {"202", "429", "503"}
    assert figures["statuses"].get("503", 0) + figures["statuses"].get("429", 0) > 0, "it was no overload"
    async with platform.client("ingest") as ingest, platform.client() as client:
        reading = {"organization_id": "flood", "device_id": "d", "sensor_name": "s", "value": 1.0}

        async def taken() -> bool:
            return (await ingest.post("/ingest", json=reading)).status_code == 202

        await eventually(taken)

        async def stored() -> bool:
            ledger = (await client.get("/organizations/flood/ledger")).json()
            accepted = ledger["accepted"]
            # Those whose outcome was unknown may have been stored as well.
            return bool(ledger["balanced"] and ledger["stored"] == accepted >= figures["readings"] + 1)

        await eventually(stored, within_s=120)
    assert HIGHEST[process.pid] < MOST_MB
    assert await platform.stop() == 0


HIGHEST: dict[int, float] = {}


async def highest_mb(process: psutil.Process) -> None:
    while True:
        HIGHEST[process.pid] = max(HIGHEST.get(process.pid, 0.0), process.memory_info().rss / 1e6)
        await asyncio.sleep(0.1)

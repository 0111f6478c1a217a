"""An organization out and in again: `python benchmarks/transfer.py [--readings 1000000] [--series 1000]`.

Readings per second and the largest memory of `iotplatform export` and `iotplatform import`, each a process of its own,
beside a platform with embedded servers on the same machine.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from iotplatform.adapters.postgres.connection import Database
from iotplatform.adapters.postgres.persistence import ReadingStore
from iotplatform.domain.reading import Reading
from tests.support.platform import Platform, environment

START_US = 1_750_000_000_000_000
AT_ONCE = 10_000


async def fill(platform: Platform, readings: int, series: int) -> None:
    """One reading of each series a minute, put where persistence would."""
    async with platform.client() as client:
        assert (await client.post("/organizations", json={"id": "acme", "name": "Acme"})).status_code == 201
    url = platform.urls["postgres"]
    database = await Database.open(url, pool_size=1)
    epoch = await database.pool.fetchval("SELECT epoch FROM organizations WHERE id = 'acme'")
    store = await ReadingStore.open(url)
    names = [(f"machine-{number // 10:04}", f"temp{number % 10}") for number in range(series)]
    for first in range(0, readings, AT_ONCE):
        numbers = range(first, min(readings, first + AT_ONCE))
        some = [
            Reading(*names[number % series], 70.0 + number % 97 / 10, START_US + number // series * 60_000_000 + number)
            for number in numbers
        ]
        await store.put(epoch, [(reading, 1) for reading in some])
    await store.close()
    await database.close()


async def timed(*arguments: str) -> tuple[float, str]:
    began = time.perf_counter()
    done = await asyncio.to_thread(
        subprocess.run,
        [sys.executable, "-m", "iotplatform", *arguments],
        env=environment(),
        capture_output=True,
        text=True,
        check=True,
    )
    return time.perf_counter() - began, done.stdout


async def run(readings: int, series: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        platform = await Platform.start(Path(folder) / "data", strict=False)
        try:
            await fill(platform, readings, series)
            where = ("--data-dir", str(Path(folder) / "data"))
            file = Path(folder) / "acme.tar"
            for what, arguments in (
                ("export", ("export", "acme", *where, "--to", str(file))),
                ("import", ("import", *where, "--from", str(file), "--as", "copy")),
            ):
                took_s, _ = await timed(*arguments)
                # Of all that were waited for: the second is told only when it needs more than the first.
                most_mb = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024
                figures = {"what": what, "readings_per_s": round(readings / took_s), "took_s": round(took_s, 1)}
                print(json.dumps({**figures, "largest_mb": round(most_mb), "file_mb": file.stat().st_size >> 20}))
        finally:
            await platform.stop()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--readings", type=int, default=1_000_000)
    parser.add_argument("--series", type=int, default=1_000)
    given = parser.parse_args()
    asyncio.run(run(given.readings, given.series))

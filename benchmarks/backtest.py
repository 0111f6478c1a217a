"""How fast a rule is tried on stored readings: `python benchmarks/backtest.py [--readings 1000000] [--series 100]`.

The readings lie in PostgreSQL as persistence leaves them: in the order in which they came, all series mixed. Each line
is one whole backtest, from the start of its process to the decoded answer.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import asyncpg

from iotplatform.adapters.embedded import DataDirectory, EmbeddedServers, EmbeddedSettings
from iotplatform.adapters.postgres.migrations import migrate
from iotplatform.domain.conditions import Condition, MOfN, NoData, Rate, Threshold
from iotplatform.domain.rule import Rule
from iotplatform.domain.timestamps import MICROSECONDS, to_datetime
from iotplatform.roles.management.backtest_program import BacktestTask
from iotplatform.roles.management.backtests import Backtests

START = 1_700_000_000 * MICROSECONDS
RULES: dict[str, Condition] = {
    "threshold > 80, 3 in a row": Threshold(">", 80.0),
    "threshold > 0: every reading breaches": Threshold(">", 0.0),
    "rate > 0.5 per s": Rate(">", 0.5),
    "3 of 5 > 80": MOfN(3, 5, ">", 80.0),
    "no data for 60 s": NoData(60.0),
}


async def fill(url: str, readings: int, series: int) -> int:
    """Random walks, one reading of each series every 10 s; and the organization's epoch."""
    connection = await asyncpg.connect(url)
    epoch: int = await connection.fetchval(
        "INSERT INTO organizations (id, name, partitions) VALUES ('bench', 'Bench', 1) RETURNING epoch"
    )
    ids = [
        row["id"]
        for row in await connection.fetch(
            "INSERT INTO series (epoch, device_id, sensor)"
            " SELECT $1, 'd' || n, 'temp' FROM generate_series(1, $2) AS n RETURNING id",
            epoch,
            series,
        )
    ]
    chance = random.Random(7)
    values = dict.fromkeys(ids, 70.0)

    def rows() -> Iterator[tuple[int, int, object, float, int]]:
        for number in range(readings):
            series_id = ids[number % series]
            values[series_id] += chance.uniform(-1, 1) - (values[series_id] - 70) / 50
            at = to_datetime(START + number // series * 10 * MICROSECONDS)
            yield series_id, 0, at, values[series_id], number // 500 + 1

    columns = ["series_id", "kind", "at", "value", "position"]
    await connection.copy_records_to_table("readings", records=rows(), columns=columns)
    await connection.execute("ANALYZE readings")
    await connection.close()
    return epoch


async def measure(url: str, epoch: int, rounds: int) -> None:
    backtests = Backtests(url, deadline_s=120)
    for name, condition in RULES.items():
        for order in ("time", "stream") if name.startswith("threshold > 80") else ("time",):
            rule = Rule("bench", "bench", "Bench", "temp*", condition)
            took = []
            for _ in range(rounds):
                began = time.perf_counter()
                result = await backtests.run(
                    BacktestTask(
                        epoch=epoch,
                        rule=rule,
                        device_ids=(),
                        since=0,
                        until=2 * START,
                        ends_at=2 * START,
                        order=order,
                        limit=100,
                    )
                )
                took.append(time.perf_counter() - began)
            print(
                f"{name:40} order={order:7} {result.readings:>10,} readings {result.episode_count:>7,} episodes  "
                f"best {min(took):5.2f} s  worst {max(took):5.2f} s  {result.readings / min(took):>10,.0f} readings/s"
            )


async def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--readings", type=int, default=1_000_000)
    parser.add_argument("--series", type=int, default=100)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    with (
        tempfile.TemporaryDirectory(prefix="iotplatform-bench-") as folder,
        DataDirectory.open(Path(folder) / "data") as directory,
    ):
        servers = EmbeddedServers(directory, EmbeddedSettings(), nats=False, redis=False)
        urls = await servers.start()
        try:
            assert urls.postgres is not None
            await migrate(urls.postgres)
            epoch = await fill(urls.postgres, options.readings, options.series)
            await measure(urls.postgres, epoch, options.rounds)
        finally:
            await servers.stop()


if __name__ == "__main__":
    asyncio.run(main())

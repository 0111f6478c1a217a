"""`python -m`: one backtest, in a process of its own that gives way to every other.

Neither the event loop of the platform nor its interpreter has to share its time with millions of readings, and one
that takes too long can be ended at any moment. The task comes by standard input, the answer goes to standard output.
"""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Callable
from importlib import import_module
from typing import Literal

import msgspec

from iotplatform.adapters.influx.settings import InfluxSettings
from iotplatform.adapters.postgres.history import History, Order, Points
from iotplatform.domain.backtest import Backtest, FoundEpisode
from iotplatform.domain.rule import Rule
from iotplatform.domain.telemetry import SeriesKey
from iotplatform.errors import Unavailable


class BacktestTask(msgspec.Struct, frozen=True):
    """Readings of [since, until); for rules that listen for silence time ends at `ends_at`."""

    epoch: int
    rule: Rule
    device_ids: tuple[str, ...]
    since: int
    until: int
    ends_at: int
    order: Order
    limit: int
    # Filled in by who runs it.
    url: str = ""
    influx: InfluxSettings | None = None
    max_readings: int = 0
    deadline_s: float = 0.0


class BacktestResult(msgspec.Struct, frozen=True):
    series: int = 0
    readings: int = 0
    episode_count: int = 0
    episodes: list[FoundEpisode] = []
    failure: Literal["", "too_many", "unavailable"] = ""


class _TooMany(Exception):
    pass


async def run(task: BacktestTask) -> BacktestResult:
    rule = msgspec.structs.replace(task.rule, enabled=True)
    backtest = Backtest(rule, task.limit, task.ends_at)
    try:
        async with History.open(task.url, task.deadline_s) as history:
            found = {
                row.id: (row.device_id, row.sensor)
                for row in await history.series(task.epoch, task.device_ids)
                if rule.matches(row.sensor) and rule.concerns(row.device_id, row.tags)
            }

            def take(series_id: int, points: Points) -> None:
                backtest.feed(found[series_id], points)
                if backtest.readings > task.max_readings:
                    raise _TooMany

            texts = rule.condition.silence_s is not None
            if task.influx is None:
                await history.copy(list(found), task.since, task.until, take, order=task.order, texts=texts)
            else:
                await _copy_influx(task, task.influx, found, take, texts=texts)
    except _TooMany:
        return BacktestResult(failure="too_many")
    except Unavailable:
        return BacktestResult(failure="unavailable")
    episodes = backtest.finish()
    return BacktestResult(backtest.series, backtest.readings, backtest.episodes, episodes)


async def _copy_influx(
    task: BacktestTask,
    settings: InfluxSettings,
    found: dict[int, SeriesKey],
    take: Callable[[int, Points], None],
    *,
    texts: bool,
) -> None:
    # The driver takes half a second to import, and hardly anybody needs it.
    stored = import_module("iotplatform.adapters.influx.history").InfluxHistory
    async with stored.open(settings) as history:
        await history.copy(
            task.epoch,
            found,
            task.since,
            task.until,
            take,
            in_stream_order=task.order == "stream",
            texts=texts,
            most=task.max_readings,
        )


def main() -> None:
    os.nice(10)
    task = msgspec.json.decode(sys.stdin.buffer.read(), type=BacktestTask)
    sys.stdout.buffer.write(msgspec.json.encode(asyncio.run(run(task))))


if __name__ == "__main__":
    main()

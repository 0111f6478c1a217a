"""Running backtests: few at once, each in a process of its own and within its time."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

import msgspec
import structlog

from iotplatform.adapters.influx.settings import InfluxSettings
from iotplatform.errors import Fault, Rejected, Unavailable
from iotplatform.roles.management.backtest_program import BacktestResult, BacktestTask

log = structlog.get_logger(role="management")

PROGRAM: Final = "iotplatform.roles.management.backtest_program"
DEADLINE_S: Final = 30.0
MAX_READINGS: Final = 10_000_000
AT_ONCE: Final = 2

_NARROWER: Final = "ask for a shorter time (`from`, `to`) or for fewer devices (`device_ids`)"


class Backtests:
    """`url` is that of the database; `influx` is where the readings are, if not in it.

    One of an organization at a time, so that none takes every place.
    """

    def __init__(
        self,
        url: str,
        deadline_s: float = DEADLINE_S,
        max_readings: int = MAX_READINGS,
        influx: InfluxSettings | None = None,
    ) -> None:
        self.url = url
        self.influx = influx
        self.deadline_s = deadline_s
        self.max_readings = max_readings
        self._running: set[int] = set()

    async def run(self, task: BacktestTask) -> BacktestResult:
        """The result of a task that `url` and the bounds of this class are filled in to.

        Raises:
            Rejected: there are too many readings, or the organization has one running.
            Unavailable: too many are running, it took too long, or a database is away.
        """
        task = msgspec.structs.replace(
            task, url=self.url, influx=self.influx, max_readings=self.max_readings, deadline_s=self.deadline_s
        )
        with self._place(task.epoch):
            try:
                async with asyncio.timeout(self.deadline_s):
                    result = await _run_alone(task)
            except TimeoutError as error:
                detail = f"the backtest did not end within {self.deadline_s:g} s: {_NARROWER}"
                raise Unavailable(detail, retry_after_s=self.deadline_s) from error
        if result.failure == "too_many":
            detail = f"the backtest is about more than {self.max_readings:,} readings: {_NARROWER}"
            raise Rejected("invalid", detail, faults=(Fault("spans too many readings", field="from"),))
        if result.failure == "unavailable":
            where = "PostgreSQL" if self.influx is None else "InfluxDB or PostgreSQL"
            raise Unavailable(f"{where} is not reachable")
        return result

    @contextmanager
    def _place(self, epoch: int) -> Iterator[None]:
        if epoch in self._running:
            detail = "a backtest of this organization is running: wait for its end"
            raise Rejected("over_quota", detail, retry_after_s=5)
        if len(self._running) >= AT_ONCE:
            raise Unavailable(f"{AT_ONCE} backtests are running, and there are no more places", retry_after_s=5)
        self._running.add(epoch)
        try:
            yield
        finally:
            self._running.discard(epoch)


async def _run_alone(task: BacktestTask) -> BacktestResult:
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        PROGRAM,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        output, errors = await process.communicate(msgspec.json.encode(task))
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    if process.returncode != 0:
        raise RuntimeError(f"the backtest ended with {process.returncode}: {errors.decode(errors='replace')[-2000:]}")
    return msgspec.json.decode(output, type=BacktestResult)

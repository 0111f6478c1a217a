"""Rollups are kept: hours are closed, what was written late is computed again, and never more than half of the time."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Final, Protocol

import structlog

from iotplatform.errors import Unavailable

log = structlog.get_logger(role="persistence")

EVERY_S: Final = 5.0
# Who sends late without end would otherwise have the same hours computed again and again.
MARKS_EVERY_S: Final = 300.0
# What a transaction aims at: writers of late readings wait for nothing in it, but vacuum does.
SHORT_S: Final = 0.05
LONG_S: Final = 0.2
MOST_PIECES: Final = 2_000


class Work(Protocol):
    """As `adapters.postgres.rollups.Rollups` does it."""

    async def close(self) -> None: ...

    async def take_marks(self) -> None: ...

    async def take_series(self) -> bool: ...

    async def compute(self, pieces: int) -> int: ...


class RollupCare:
    """`is_holder` tells which of the processes of the role does it."""

    def __init__(self, rollups: Work, is_holder: Callable[[], bool]) -> None:
        self._rollups = rollups
        self._is_holder = is_holder
        self._pieces = 16
        self._marks_at = -MARKS_EVERY_S

    async def run(self) -> None:
        """Until cancelled. What fails is tried again in the next round."""
        while True:
            await asyncio.sleep(EVERY_S)
            try:
                await self.care()
            except Unavailable as error:
                log.debug("persistence.rollups_postponed", detail=str(error))

    async def care(self) -> None:
        """One round: until nothing waits, or somebody else is to do it.

        Raises:
            Unavailable: PostgreSQL is away, or somebody who writes does not come to an end.
        """
        if not self._is_holder():
            return
        await self._rollups.close()
        now = time.monotonic()
        if now - self._marks_at >= MARKS_EVERY_S:
            self._marks_at = now
            await self._rollups.take_marks()
        while self._is_holder():
            began = time.monotonic()
            computed = await self._rollups.compute(self._pieces)
            if computed == 0 and not await self._rollups.take_series():
                return
            took = time.monotonic() - began
            if took > LONG_S:
                self._pieces = max(1, self._pieces // 2)
            elif took < SHORT_S and computed == self._pieces:
                self._pieces = min(MOST_PIECES, self._pieces * 2)
            await asyncio.sleep(took)

"""Keeping checkpoints: every few seconds one statement for all the partitions that have moved."""

from __future__ import annotations

import asyncio
from typing import Final

import structlog

from iotplatform.adapters.nats.partitions import PartitionKey
from iotplatform.adapters.postgres.checkpoints import Checkpoints
from iotplatform.errors import Unavailable

log = structlog.get_logger(role="analysis")

WRITTEN_EVERY_S: Final = 5.0
LAST_WRITE_WITHIN_S: Final = 2.0


class Checkpointer:
    def __init__(self, checkpoints: Checkpoints) -> None:
        self._checkpoints = checkpoints
        self._moved: dict[PartitionKey, int] = {}

    def moved(self, key: PartitionKey, position: int) -> None:
        """Everything up to `position` is committed and published."""
        self._moved[key] = position

    async def run(self) -> None:
        while True:
            await asyncio.sleep(WRITTEN_EVERY_S)
            await self._write()

    async def stop(self) -> None:
        try:
            async with asyncio.timeout(LAST_WRITE_WITHIN_S):
                await self._write()
        except TimeoutError:
            log.debug("analysis.no_last_checkpoint")

    async def _write(self) -> None:
        moved, self._moved = self._moved, {}
        if not moved:
            return
        try:
            await self._checkpoints.write(moved)
        except Unavailable as error:
            self._moved = moved | self._moved
            log.debug("analysis.no_checkpoint", detail=error.detail)

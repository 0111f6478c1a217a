"""Counts for the ledger's side columns, gathered in memory and added to Redis once a second.

What a crash loses of the last second is lost: these columns inform, the ledger's balance doesn't rest on them.
"""

from __future__ import annotations

import asyncio
from typing import Final

import structlog

from iotplatform.adapters.redis.connection import RedisConnection
from iotplatform.errors import Unavailable

log = structlog.get_logger()

FLUSH_EVERY_S: Final = 1.0


class Counters:
    def __init__(self, redis: RedisConnection) -> None:
        self._redis = redis
        self._pending: dict[tuple[int, str], int] = {}

    def add(self, epoch: int, name: str, amount: int) -> None:
        key = (epoch, name)
        self._pending[key] = self._pending.get(key, 0) + amount

    async def run(self) -> None:
        while True:
            await asyncio.sleep(FLUSH_EVERY_S)
            try:
                await self.flush()
            except Unavailable as error:
                log.debug("counters.waiting", detail=error.detail)

    async def flush(self) -> None:
        pending, self._pending = self._pending, {}
        if not pending:
            return
        try:
            await self._redis.increment([(_hash(epoch), name, amount) for (epoch, name), amount in pending.items()])
        except Unavailable:
            for (epoch, name), amount in pending.items():
                self.add(epoch, name, amount)
            raise

    async def read(self, epoch: int) -> dict[str, int]:
        return {name.decode(): int(amount) for name, amount in (await self._redis.get_hash(_hash(epoch))).items()}


def _hash(epoch: int) -> str:
    return f"iot:{epoch}:counts"

"""Removing the keys of an epoch that is over, by their common prefix."""

from __future__ import annotations

from iotplatform.adapters.redis.connection import RedisConnection


class EpochKeys:
    def __init__(self, redis: RedisConnection) -> None:
        self._redis = redis

    async def remove(self, epoch: int) -> int:
        """The number of keys removed: states, outboxes, latest values, counts."""
        return await self._redis.unlink(await self._redis.scan(f"iot:{epoch}:*"))

    async def epochs(self) -> set[int]:
        """Every epoch that has keys."""
        tokens = [key.split(b":")[1] for key in await self._redis.scan("iot:*:*")]
        return {int(token) for token in tokens if token.isdigit()}

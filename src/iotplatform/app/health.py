"""Whether this process can do its work."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable
from typing import Final

from iotplatform.app.resources import Resources
from iotplatform.app.settings import RoleName
from iotplatform.errors import PlatformError
from iotplatform.observability.instruments import Histogram

CHECK_TIMEOUT_S: Final = 1.0
LAG_EVERY_S: Final = 0.5

_NEED_POSTGRES: Final[frozenset[RoleName]] = frozenset({"management", "notification", "persistence"})
_NEED_REDIS: Final[frozenset[RoleName]] = frozenset({"analysis", "persistence"})


class Health:
    def __init__(self, resources: Resources, roles: frozenset[RoleName]) -> None:
        self._resources = resources
        self._roles = roles
        self.ready = False
        self.loop_lag_s = 0.0

    def stopping(self) -> None:
        self.ready = False

    async def problems(self) -> dict[str, str]:
        """What keeps the process from being ready, by name; empty when nothing does."""
        if not self.ready:
            return {"process": "starting or stopping"}
        found: dict[str, str] = {}
        if not self._resources.connection.is_connected:
            found["nats"] = "not connected"
        if self._roles & _NEED_POSTGRES and not await self._answers(self._resources.database.ping()):
            found["postgres"] = "does not answer"
        if self._roles & _NEED_REDIS and not await self._answers(self._resources.redis.ping()):
            found["redis"] = "does not answer"
        return found

    async def _answers(self, check: Awaitable[None]) -> bool:
        try:
            async with asyncio.timeout(CHECK_TIMEOUT_S):
                await check
        except (PlatformError, TimeoutError):
            return False
        return True


async def loop_lag(health: Health, delays: Histogram) -> None:
    """Measure how late the event loop wakes up, until cancelled."""
    while True:
        began = time.perf_counter()
        await asyncio.sleep(LAG_EVERY_S)
        health.loop_lag_s = max(0.0, time.perf_counter() - began - LAG_EVERY_S)
        delays.record(health.loop_lag_s)

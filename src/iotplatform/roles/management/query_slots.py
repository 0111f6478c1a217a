"""How many queries of an organization run and wait at once: none takes what others need."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

from iotplatform.errors import Rejected

MOST_WAITING: Final = 16


class QuerySlots:
    def __init__(self, per_organization: int) -> None:
        self._most = per_organization
        self._semaphores: dict[int, asyncio.Semaphore] = {}
        self._asked: dict[int, int] = {}

    @asynccontextmanager
    async def take(self, epoch: int) -> AsyncIterator[None]:
        """Wait for one of the organization's own.

        Raises:
            Rejected: too many wait already (over_quota).
        """
        asked = self._asked.get(epoch, 0)
        if asked >= self._most + MOST_WAITING:
            detail = (
                f"{self._most} queries of this organization are running (query.per_organization), and "
                f"{MOST_WAITING} wait: try again later"
            )
            raise Rejected("over_quota", detail, retry_after_s=1)
        self._asked[epoch] = asked + 1
        try:
            async with self._semaphores.setdefault(epoch, asyncio.Semaphore(self._most)):
                yield
        finally:
            self._asked[epoch] -= 1
            if not self._asked[epoch]:
                del self._asked[epoch], self._semaphores[epoch]

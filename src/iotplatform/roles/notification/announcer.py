"""Looks once a second for what people and the clock add to the transitions of analysis."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final

import structlog

from iotplatform.adapters.postgres.announcements import Announcements
from iotplatform.errors import Unavailable
from iotplatform.runtime.backoff import Backoff

log = structlog.get_logger(role="notification")

EVERY_S: Final = 1.0


class Announcer:
    """`announced` is called when there may be new deliveries."""

    def __init__(self, announcements: Announcements, announced: Callable[[], None], every_s: float = EVERY_S) -> None:
        self._announcements = announcements
        self._announced = announced
        self._every_s = every_s

    async def run(self) -> None:
        backoff = Backoff(0.05, 5.0)
        while True:
            try:
                # Both, always: a flood of one must not hold up the other.
                found = await self._announcements.announce_acknowledged() + await self._announcements.remind()
            except Unavailable as error:
                log.warning("notification.not_announced", detail=error.detail)
                await backoff.wait()
                continue
            backoff.reset()
            if found:
                self._announced()
            else:
                await asyncio.sleep(self._every_s)

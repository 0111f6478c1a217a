"""The live streams that this process serves: how many there are, and their common end."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager

from iotplatform.adapters.nats.connection import Connection
from iotplatform.adapters.nats.tails import Tails
from iotplatform.domain.live import LiveLimits
from iotplatform.errors import Rejected
from iotplatform.roles.management.live_messages import LiveBlock, LiveTransition


class LiveStreams:
    def __init__(self, connection: Connection, limits: LiveLimits) -> None:
        self.readings = Tails(connection, LiveBlock)
        self.alarms = Tails(connection, LiveTransition)
        self.limits = limits
        self.ending = False
        self._open: dict[asyncio.Event, int] = {}

    async def run(self) -> None:
        """Until cancelled."""
        await asyncio.gather(self.readings.run(), self.alarms.run())

    @contextmanager
    def enter(self, epoch: int) -> Iterator[asyncio.Event]:
        """A place for one more of an organization, and what wakes it.

        Raises:
            Rejected: there are as many as may be (over_quota).
        """
        limits = self.limits
        if list(self._open.values()).count(epoch) >= limits.per_organization:
            detail = f"this organization has {limits.per_organization} live streams here (live.per_organization)"
            raise Rejected("over_quota", detail, retry_after_s=5)
        if len(self._open) >= limits.in_process:
            detail = f"this process serves {limits.in_process} live streams (live.in_process)"
            raise Rejected("over_quota", detail, retry_after_s=5)
        wake = asyncio.Event()
        self._open[wake] = epoch
        try:
            yield wake
        finally:
            del self._open[wake]

    @property
    def number(self) -> int:
        return len(self._open)

    def end(self) -> None:
        """Let all of them end: a server that is told to stop waits for its answers."""
        self.ending = True
        for wake in self._open:
            wake.set()

"""The ingest role: its lanes, and the endpoint that fills them."""

from __future__ import annotations

import asyncio
from typing import Final

from iotplatform.adapters.nats.publisher import Publisher
from iotplatform.adapters.postgres.directory import Directory
from iotplatform.adapters.redis.counters import Counters
from iotplatform.adapters.tokens.verifier import Verifier
from iotplatform.observability.metrics import Metrics
from iotplatform.roles.ingest.lane import LaneLimits
from iotplatform.roles.ingest.lanes import Lanes
from iotplatform.roles.ingest.presence import IngestionPresence
from iotplatform.roles.ingest.routes import IngestEndpoint
from iotplatform.runtime.tasks import Tasks

DRAIN_S: Final = 15.0


class IngestRole:
    name = "ingest"

    def __init__(
        self,
        publisher: Publisher,
        directory: Directory,
        verifier: Verifier,
        counters: Counters,
        metrics: Metrics,
        presence: IngestionPresence,
    ) -> None:
        self._lanes = Lanes(publisher, metrics, LaneLimits())
        self._presence = presence
        self._tasks = Tasks(self.name)
        self.endpoint = IngestEndpoint(self._lanes, directory, verifier, counters, metrics)

    async def start(self) -> None:
        self._lanes.start()
        self._tasks.start(self._presence.run(), "presence")

    async def wait(self) -> None:
        await asyncio.gather(self._lanes.wait(), self._tasks.wait())

    async def stop(self) -> None:
        """The listener is closed by now; what was taken is still sent."""
        await self._tasks.stop()
        await self._lanes.drain(DRAIN_S)

"""The ingest role: its lanes, and the endpoint that fills them."""

from __future__ import annotations

from typing import Final

from iotplatform.adapters.nats.publisher import Publisher
from iotplatform.adapters.postgres.directory import Directory
from iotplatform.adapters.redis.counters import Counters
from iotplatform.adapters.tokens.verifier import Verifier
from iotplatform.observability.metrics import Metrics
from iotplatform.roles.ingest.admission import Admission
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
        admission: Admission,
        presence: IngestionPresence,
        directory: Directory,
        verifier: Verifier,
        counters: Counters,
        metrics: Metrics,
    ) -> None:
        self._tasks = Tasks(self.name)
        self._lanes = Lanes(publisher, metrics, LaneLimits())
        self._presence = presence
        # For every door: what is not admitted goes into no lane.
        self.admission = admission
        self.endpoint = IngestEndpoint(self._lanes, admission, directory, verifier, counters, metrics)

    async def start(self) -> None:
        self.admission.start()
        self._lanes.start()
        self._tasks.start(self._lanes.wait(), "lanes")
        self._tasks.start(self.admission.wait(), "limits")
        self._tasks.start(self._presence.run(), "presence")

    async def wait(self) -> None:
        await self._tasks.wait()

    async def stop(self) -> None:
        """The listener is closed by now; what was taken is still sent."""
        await self._tasks.stop()
        await self._lanes.drain(DRAIN_S)
        await self.admission.stop()

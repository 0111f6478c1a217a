"""The ingest role: its lanes, and the endpoints that fill them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import msgspec

from iotplatform.adapters.nats.dead_letters import DeadLetters
from iotplatform.adapters.nats.publisher import Publisher
from iotplatform.adapters.postgres.changes import ChangeFeed
from iotplatform.adapters.postgres.connection import Database
from iotplatform.adapters.postgres.directory import Directory
from iotplatform.adapters.redis.counters import Counters
from iotplatform.adapters.tokens.verifier import Verifier
from iotplatform.observability.metrics import Metrics
from iotplatform.roles.ingest.acceptance import Acceptance
from iotplatform.roles.ingest.admission import Admission
from iotplatform.roles.ingest.influx import WriteEndpoint
from iotplatform.roles.ingest.lane import LaneLimits
from iotplatform.roles.ingest.lanes import Lanes
from iotplatform.roles.ingest.letters import Door
from iotplatform.roles.ingest.registry import Registry
from iotplatform.roles.ingest.routes import Handler, IngestEndpoint
from iotplatform.runtime.tasks import Tasks

DRAIN_S: Final = 15.0


class IngestParts(msgspec.Struct, frozen=True):
    """What the door stands on. `registers_unknown`: a device that nobody knows is registered when it sends."""

    publisher: Publisher
    directory: Directory
    database: Database
    changes: ChangeFeed
    verifier: Verifier
    counters: Counters
    dead_letters: DeadLetters
    admission: Admission
    registers_unknown: bool


class IngestRole:
    name = "ingest"

    def __init__(self, parts: IngestParts, metrics: Metrics) -> None:
        self._lanes = Lanes(parts.publisher, metrics, LaneLimits())
        self._tasks = Tasks(self.name)
        self._registry = Registry(parts.database, registers_unknown=parts.registers_unknown)
        parts.changes.register(self._registry.apply)
        # For every door: what is not admitted goes into no lane.
        self.admission = parts.admission
        self.acceptance = Acceptance(
            self._lanes, self.admission, parts.directory, parts.counters, Door(parts.dead_letters), self._registry
        )
        self.endpoint = IngestEndpoint(self.acceptance, parts.verifier, metrics)
        write = WriteEndpoint(self.acceptance, parts.verifier, self.endpoint.receiving, metrics)
        self.endpoints: Mapping[str, Handler] = {"/ingest": self.endpoint, "/api/v2/write": write}

    async def start(self) -> None:
        self.admission.start()
        self._lanes.start()
        self._tasks.start(self._lanes.wait(), "lanes")
        self._tasks.start(self.admission.wait(), "limits")
        self._tasks.start(self._registry.run(), "registry")

    async def wait(self) -> None:
        await self._tasks.wait()

    async def stop(self) -> None:
        """The listener is closed by now; what was taken is still sent."""
        await self._tasks.stop()
        await self._lanes.drain(DRAIN_S)
        await self.admission.stop()

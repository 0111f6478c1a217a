"""What every door for devices needs."""

from __future__ import annotations

import msgspec

from iotplatform.adapters.nats.connection import Connection
from iotplatform.adapters.nats.dead_letters import DeadLetters
from iotplatform.adapters.nats.publisher import Publisher
from iotplatform.adapters.postgres.directory import Directory
from iotplatform.adapters.redis.counters import Counters
from iotplatform.domain.organization import Organization
from iotplatform.observability.metrics import Metrics
from iotplatform.roles.ingest.admission import Admission
from iotplatform.roles.ingest.registry import Registry


class DoorParts(msgspec.Struct, frozen=True):
    """What the doors for devices stand on."""

    connection: Connection
    publisher: Publisher
    admission: Admission
    directory: Directory
    dead_letters: DeadLetters
    counters: Counters
    metrics: Metrics
    registry: Registry

    def refuse(self, organization: Organization, reason: str, count: int = 1) -> None:
        """Count what was not let in."""
        self.metrics.readings_refused.add(count, reason)
        self.counters.add(organization.epoch, "refused", count)

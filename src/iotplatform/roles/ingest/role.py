"""The ingest role: its lanes, and the doors that fill them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import msgspec

from iotplatform.adapters.nats.callout import AuthCallout
from iotplatform.adapters.nats.callout_keys import CalloutKeys
from iotplatform.adapters.nats.connection import Connection
from iotplatform.adapters.nats.device_messages import DeviceMessages
from iotplatform.adapters.tokens.authenticator import Authenticator
from iotplatform.roles.ingest.acceptance import Acceptance
from iotplatform.roles.ingest.asides import Asides
from iotplatform.roles.ingest.door_parts import DoorParts
from iotplatform.roles.ingest.entrance import Entrance
from iotplatform.roles.ingest.influx import WriteEndpoint
from iotplatform.roles.ingest.intake import Intake
from iotplatform.roles.ingest.lane import LaneLimits
from iotplatform.roles.ingest.lanes import Lanes
from iotplatform.roles.ingest.live_messages import LiveMessages
from iotplatform.roles.ingest.presence import IngestionPresence
from iotplatform.roles.ingest.routes import Handler, IngestEndpoint
from iotplatform.roles.ingest.senders import Senders
from iotplatform.runtime.membership import Membership
from iotplatform.runtime.tasks import Tasks

DRAIN_S: Final = 15.0
STOP_S: Final = 5.0


class Callout(msgspec.Struct, frozen=True):
    """How devices are let in by nats-server: `connection` is one of the account AUTH."""

    keys: CalloutKeys
    connection: Connection
    is_open: bool


class IngestRole:
    name = "ingest"

    def __init__(
        self,
        parts: DoorParts,
        senders: Senders,
        authenticator: Authenticator,
        membership: Membership,
        presence: IngestionPresence,
        callout: Callout | None = None,
    ) -> None:
        self._membership = membership
        self._presence = presence
        self._callout_connection = callout.connection if callout else None
        self._callout: AuthCallout | None = None
        if callout is not None:
            entrance = Entrance(authenticator.device_claims, is_open=callout.is_open)
            self._callout = AuthCallout(callout.keys, callout.connection, entrance.decide)
        self._lanes = Lanes(parts.publisher, parts.metrics, LaneLimits())
        # For every door: what is not admitted goes into no lane.
        self.admission = parts.admission
        self._registry = parts.registry
        acceptance = Acceptance(
            self._lanes, parts.admission, parts.directory, parts.counters, Asides(parts.dead_letters), parts.registry
        )
        self.endpoint = IngestEndpoint(acceptance, senders, parts.metrics)
        write = WriteEndpoint(acceptance, senders, self.endpoint.receiving, parts.metrics)
        self.endpoints: Mapping[str, Handler] = {"/ingest": self.endpoint, "/api/v2/write": write}
        self.intake = Intake(parts, membership)
        self._messages = DeviceMessages(parts.connection)
        self._live = LiveMessages(self._lanes, parts)
        self._tasks = Tasks(self.name)

    async def start(self) -> None:
        self.admission.start()
        self._lanes.start()
        await self._messages.on_live(self._live.take)
        self._tasks.start(self._lanes.wait(), "lanes")
        self._tasks.start(self.admission.wait(), "limits")
        self._tasks.start(self._registry.run(), "registry")
        self._tasks.start(self._live.wait(), "live")
        self._tasks.start(self._presence.run(), "presence")
        # The door for HTTP needs no other process of the role: it does not wait for a PostgreSQL that is away.
        self._tasks.start(self._share(), "intake")
        if self._callout is not None and self._callout_connection is not None:
            await self._callout.start()
            self._tasks.start(self._callout_connection.run(), "callout_connection")
            self._tasks.start(self._callout.wait(), "callout")

    async def _share(self) -> None:
        await self._membership.join()
        self._tasks.start(self._membership.run(), "membership")
        await self.intake.start()
        await self.intake.wait()

    async def wait(self) -> None:
        await self._tasks.wait()

    async def stop(self) -> None:
        """The listener is closed by now; what was taken is still sent."""
        if self._callout is not None:
            await self._callout.stop()
        await self._messages.stop()
        await self._tasks.stop(STOP_S)
        await self.intake.stop()
        await self._live.stop()
        await self._lanes.drain(DRAIN_S)
        await self.admission.stop()
        await self._membership.leave()

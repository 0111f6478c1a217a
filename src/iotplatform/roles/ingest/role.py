"""The ingest role: its lanes, and the doors that fill them."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Final

import msgspec
import structlog

from iotplatform.adapters.nats.api import ApiError
from iotplatform.adapters.nats.callout import AuthCallout
from iotplatform.adapters.nats.callout_keys import CalloutKeys
from iotplatform.adapters.nats.connection import Connection
from iotplatform.adapters.nats.device_accounts import DeviceAccounts
from iotplatform.adapters.nats.device_messages import DeviceMessages
from iotplatform.adapters.nats.intake_trimming import IntakeTrimmer
from iotplatform.adapters.nats.retained import RetainedMessages
from iotplatform.adapters.postgres.directory import Directory
from iotplatform.adapters.tokens.authenticator import Authenticator
from iotplatform.errors import Rejected, Unavailable
from iotplatform.roles.ingest.acceptance import Acceptance
from iotplatform.roles.ingest.asides import Asides
from iotplatform.roles.ingest.attendance import PresenceKeeper, Seen
from iotplatform.roles.ingest.command_sender import CommandSender
from iotplatform.roles.ingest.device_requests import DeviceRequests
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
from iotplatform.roles.ingest.watch import Watch
from iotplatform.runtime.membership import Membership
from iotplatform.runtime.tasks import Tasks

DRAIN_S: Final = 15.0
STOP_S: Final = 5.0
TRIM_EVERY_S: Final = 30.0

log = structlog.get_logger(role="ingest")


class Callout(msgspec.Struct, frozen=True):
    """How nats-server lets devices in: `connection` is one of the account AUTH, `system` of the system account."""

    keys: CalloutKeys
    connection: Connection
    system: Connection
    is_open: bool


class _Accounts:
    """Which account of nats-server is whose."""

    def __init__(self, system: Connection, directory: Directory) -> None:
        self._accounts = DeviceAccounts(system)
        self._directory = directory

    async def of(self, organization_id: str) -> str:
        organization = await self._directory.organization(organization_id)
        if organization is None:
            raise Rejected("unauthenticated", "there is no such organization any more")
        return await self._accounts.of_organization(organization.epoch)


PATHS: Final = ("/ingest", "/api/v2/write")


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
        self.watch: Watch | None = None
        seen = Seen()
        self._attendance = PresenceKeeper(
            parts.presence, parts.directory, seen, lambda: membership.owns("ingest/presence")
        )
        self._commands = CommandSender(parts.commands, parts.connection, lambda: membership.owns("ingest/commands"))
        if callout is not None:
            self.watch = Watch(callout.system, parts.directory, self._attendance)
            entrance = Entrance(
                authenticator.device_claims,
                _Accounts(callout.system, parts.directory).of,
                self.watch.connections.count,
                senders.strangers,
                is_open=callout.is_open,
            )
            self._callout = AuthCallout(callout.keys, callout.connection, entrance.decide)
        self._lanes = Lanes(parts.publisher, parts.metrics, LaneLimits(), seen=seen)
        # For every door: what is not admitted goes into no lane.
        self.admission = parts.admission
        self._registry = parts.registry
        acceptance = Acceptance(
            self._lanes, parts.admission, parts.directory, parts.counters, Asides(parts.dead_letters), parts.registry
        )
        self.endpoint = IngestEndpoint(acceptance, senders, parts.metrics)
        write = WriteEndpoint(acceptance, senders, self.endpoint.receiving, parts.metrics)
        self.endpoints: Mapping[str, Handler] = dict(zip(PATHS, (self.endpoint, write), strict=True))
        self.intake = Intake(parts, membership, seen, self._commands.reply)
        self._messages = DeviceMessages(parts.connection)
        self._live = LiveMessages(self._lanes, parts, self._commands.reply)
        self._requests = DeviceRequests(self._lanes, parts, self._messages, self.endpoint.receiving)
        self._trimmer = IntakeTrimmer(parts.connection)
        self._retained = RetainedMessages(parts.connection)
        self._directory = parts.directory
        self._tasks = Tasks(self.name)

    async def start(self) -> None:
        self.admission.start()
        self._lanes.start()
        await self._messages.on_live(self._live.take)
        await self._messages.on_request(self._requests.take)
        self._tasks.start(self._requests.wait(), "requests")
        self._tasks.start(self._lanes.wait(), "lanes")
        self._tasks.start(self.admission.wait(), "limits")
        self._tasks.start(self._registry.run(), "registry")
        self._tasks.start(self._live.wait(), "live")
        self._tasks.start(self._attendance.run(self.watch.live_signs if self.watch else tuple), "attendance")
        self._tasks.start(self._presence.run(), "presence")
        # The door for HTTP needs no other process of the role: it does not wait for a PostgreSQL that is away.
        self._tasks.start(self._share(), "intake")
        if self._callout is not None and self._callout_connection is not None:
            await self._callout.start()
            self._tasks.start(self._callout_connection.run(), "callout_connection")
            self._tasks.start(self._callout.wait(), "callout")
        if self.watch is not None:
            await self.watch.start()
            self._tasks.start(self.watch.wait(), "watch")

    async def _share(self) -> None:
        await self._membership.join()
        self._tasks.start(self._membership.run(), "membership")
        await self.intake.start()
        self._tasks.start(self._trim(), "trim")
        self._tasks.start(self._commands.run(), "commands")
        await self.intake.wait()

    async def _trim(self) -> None:
        while True:
            await asyncio.sleep(TRIM_EVERY_S)
            if not self._membership.owns("ingest/trim"):
                continue
            try:
                await self._trimmer.trim(self._directory.organizations())
                await self._retained.trim()
            except (Unavailable, ApiError) as error:
                log.warning("ingest.not_trimmed", detail=str(error))

    async def wait(self) -> None:
        await self._tasks.wait()

    async def stop(self) -> None:
        """The listener is closed by now; what was taken is still sent."""
        if self._callout is not None:
            await self._callout.stop()
        await self._messages.stop()
        await self._tasks.stop(STOP_S)
        if self.watch is not None:
            await self.watch.stop()
        await self.intake.stop()
        await self._live.stop()
        await self._lanes.drain(DRAIN_S)
        await self._requests.stop()
        await self.admission.stop()
        await self._membership.leave()

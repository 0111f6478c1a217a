"""The watch over devices that are connected: who is no longer allowed in has to go.

Every process of the role watches every connection, whoever has let it in, so that none is missed when one of them dies.
"""

from __future__ import annotations

import structlog

from iotplatform.adapters.nats.connection import Connection
from iotplatform.adapters.nats.device_connections import DeviceConnections, Event, Link
from iotplatform.adapters.postgres.changes import EVERYTHING, Change
from iotplatform.adapters.postgres.directory import Directory
from iotplatform.errors import Unavailable
from iotplatform.roles.ingest.attendance import PresenceKeeper
from iotplatform.roles.ingest.entrance import Sign
from iotplatform.runtime.tasks import Tasks

log = structlog.get_logger(role="ingest")


class Watch:
    """`connection` is one of the system account."""

    def __init__(self, connection: Connection, directory: Directory, presence: PresenceKeeper) -> None:
        self._connection = connection
        self._presence = presence
        self._directory = directory
        self.connections = DeviceConnections(connection, self._happened, self._listed)
        self._tasks = Tasks("ingest.watch")

    async def start(self) -> None:
        await self.connections.start()
        self._tasks.start(self._connection.run(), "connection")
        self._tasks.start(self.connections.wait(), "connections")

    async def wait(self) -> None:
        await self._tasks.wait()

    async def stop(self) -> None:
        await self._tasks.stop()
        await self.connections.stop()

    async def changed(self, changes: list[Change]) -> None:
        """What the change feed calls, after the directory has heard of it.

        Raises:
            Unavailable: whether a token lives can't be found out now; call again.
        """
        if EVERYTHING in changes:
            await self._check_all()
            return
        tokens = {change.key for change in changes if change.kind == "device_token"}
        keys = {change.key for change in changes if change.kind == "signing_key"}
        if tokens or keys:
            for link, sign in self._signs():
                if sign.token_id in tokens or sign.kid in keys:
                    await self._check(link, sign)

    def _happened(self, event: Event) -> None:
        sign = Sign.parse(event.name)
        if sign is None:
            return
        self._presence.changed(sign)
        if event.kind == "connected" and sign.token_id:
            # It may have been revoked after it was let in, and before anybody knew that it is here.
            self._tasks.spawn(self._look(event.link, sign), "look")

    async def _look(self, link: Link, sign: Sign) -> None:
        try:
            await self._check(link, sign)
        except Unavailable as error:
            log.debug("watch.unknown", detail=error.detail)

    async def _listed(self) -> None:
        self._presence.listed()
        try:
            await self._check_all()
        except Unavailable as error:
            log.debug("watch.unknown", detail=error.detail)

    async def _check_all(self) -> None:
        for link, sign in self._signs():
            await self._check(link, sign)

    async def _check(self, link: Link, sign: Sign) -> None:
        if not await self._holds(sign):
            log.info("watch.ended", organization=sign.organization_id, device=sign.device_id)
            await self.connections.end(link)

    async def _holds(self, sign: Sign) -> bool:
        if sign.token_id and not await self._directory.token_is_live(sign.token_id):
            return False
        return not sign.kid or await self._directory.public_key(sign.kid) is not None

    def live_signs(self) -> list[Sign]:
        return [sign for _, sign in self._signs()]

    def _signs(self) -> list[tuple[Link, Sign]]:
        found = [(link, Sign.parse(name)) for link, name in self.connections.live.items()]
        return [(link, sign) for link, sign in found if sign is not None]

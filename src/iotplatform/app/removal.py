"""The end of an organization: its rows in one transaction, and then every trace in every store, step by step."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Final

import structlog

from iotplatform.adapters.nats.api import ApiError
from iotplatform.adapters.nats.connection import Connection
from iotplatform.adapters.nats.intake_trimming import IntakeTrimmer
from iotplatform.adapters.nats.removal import EpochRemover
from iotplatform.adapters.nats.retained import RetainedMessages
from iotplatform.adapters.postgres.changes import Change
from iotplatform.adapters.postgres.connection import Database
from iotplatform.adapters.postgres.directory import Directory
from iotplatform.adapters.postgres.gaps import Gaps
from iotplatform.adapters.postgres.removals import Check, Removals
from iotplatform.adapters.redis.connection import RedisConnection
from iotplatform.adapters.redis.removal import EpochKeys
from iotplatform.domain.organization import Organization
from iotplatform.domain.removal import Removal
from iotplatform.domain.telemetry import TelemetryStore
from iotplatform.errors import Unavailable

log = structlog.get_logger()

WITHIN_REQUEST_S: Final = 20.0
# Long enough for every process to have heard of it and to have finished what it had in its hands: what is written
# behind the first pass is removed by the one that ends the removal.
LATE_WRITERS_S: Final = 30.0


class OrganizationRemover:
    """Each step may be done again, and by several processes at once; a removal is over when one pass had no fault.

    `telemetry` are all stores that may hold readings: the one in use, and the one that was before.
    """

    def __init__(
        self,
        database: Database,
        connection: Connection,
        redis: RedisConnection,
        directory: Directory,
        telemetry: Sequence[TelemetryStore],
    ) -> None:
        self._removals = Removals(database)
        self._gaps = Gaps(database)
        self._streams = EpochRemover(connection)
        self._intake = IntakeTrimmer(connection)
        self._retained = RetainedMessages(connection)
        self._keys = EpochKeys(redis)
        self._directory = directory
        # Of those that were due when `finish` looked last.
        self.left = 0
        self._telemetry = telemetry

    async def delete(self, organization: Organization, check: Check) -> bool:
        """Delete it, and remove what can be removed within 20 s; False when somebody else has deleted it.

        Raises:
            Rejected: by `check`, which sees the version that would be deleted.
            Unavailable: PostgreSQL is away, and whether it was deleted is to be asked again.
        """
        removal = await self._removals.begin(organization, check)
        if removal is None:
            return False
        try:
            # Other processes hear of it by the change feed; this one need not wait for that.
            await self._directory.apply([Change("organization", organization.epoch, organization.id)])
            async with asyncio.timeout(WITHIN_REQUEST_S):
                await self._remove(removal)
        except (Unavailable, ApiError, TimeoutError) as error:
            log.warning("removal.postponed", organization=organization.id, epoch=organization.epoch, detail=str(error))
        return True

    async def finish(self) -> None:
        """What others have begun, or could not remove yet.

        Raises:
            Unavailable: PostgreSQL is away.
        """
        due = await self._removals.due(LATE_WRITERS_S)
        self.left = len(due)
        for removal in due:
            try:
                await self._remove(removal)
            except (Unavailable, ApiError) as error:
                log.warning(
                    "removal.postponed", organization=removal.organization_id, epoch=removal.epoch, detail=str(error)
                )
            else:
                await self._removals.end(removal)
                self.left -= 1
                log.info("removal.finished", organization=removal.organization_id, epoch=removal.epoch)

    async def remove_orphans(self) -> None:
        """Keys in Redis of epochs that are over: from a process that had slept through all of it.

        Raises:
            Unavailable: a server is away.
        """
        for epoch in await self._removals.without_organization(await self._keys.epochs()):
            log.info("removal.orphan", epoch=epoch, keys=await self._keys.remove(epoch))

    async def _remove(self, removal: Removal) -> None:
        """All steps, also when one of them fails: a Redis that is away does not keep the readings."""
        steps: list[Callable[[Removal], Awaitable[object]]] = [
            self._remove_stream,
            self._streams.remove_messages,
            lambda removal: self._intake.remove_consumer(removal.epoch),
            lambda removal: self._keys.remove(removal.epoch),
            self._remove_readings,
        ]
        failure: Unavailable | ApiError | None = None
        for step in steps:
            try:
                await step(removal)
            except (Unavailable, ApiError) as error:
                failure = failure or error
        if failure is not None:
            raise failure

    async def _remove_readings(self, removal: Removal) -> None:
        for store in self._telemetry:
            await store.remove_organization(removal.epoch)

    async def _remove_stream(self, removal: Removal) -> None:
        """Streams have the names of ids: a successor's is spared, and only what is of earlier epochs leaves it."""
        async with self._removals.owner(removal.organization_id) as owner:
            if owner is None:
                await self._streams.remove_stream(removal.organization_id)
                await self._intake.remove_messages(removal.organization_id)
                await self._retained.remove(removal.organization_id)
                return
        await self._streams.remove_consumers(removal)
        await self._streams.remove_strangers(
            owner, lambda partition, sequence: self._gaps.cut(owner.epoch, partition, sequence)
        )

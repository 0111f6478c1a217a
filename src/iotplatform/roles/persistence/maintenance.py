"""What persistence does beside storing: the care of streams, lanes and latest values, and the end of organizations."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Final

import msgspec
import structlog

from iotplatform.adapters.nats.api import ApiError
from iotplatform.adapters.postgres.directory import Directory
from iotplatform.domain.organization import Organization
from iotplatform.errors import Unavailable
from iotplatform.roles.persistence.ledger_audit import LedgerAudit
from iotplatform.roles.persistence.readings import ReadingWriter
from iotplatform.roles.persistence.stream_care import StreamCare

log = structlog.get_logger(role="persistence")

EVERY_S: Final = 15.0
# Going through all of Redis is for once in a while.
ORPHANS_EVERY_ROUNDS: Final = 40


class Duties(msgspec.Struct, frozen=True):
    """What belongs to no single organization."""

    fold_lanes: Callable[[], Awaitable[int]]
    finish_removals: Callable[[], Awaitable[None]]
    remove_orphans: Callable[[], Awaitable[None]]


class Maintenance:
    """Nothing in here is urgent: what fails is tried again in the next round, and holds up nothing else."""

    def __init__(
        self, readings: ReadingWriter, streams: StreamCare, audit: LedgerAudit, duties: Duties, directory: Directory
    ) -> None:
        self._readings = readings
        self._streams = streams
        self._audit = audit
        self._duties = duties
        self._directory = directory

    async def run(self) -> None:
        """Until cancelled."""
        rounds = 0
        while True:
            await asyncio.sleep(EVERY_S)
            await self._try(self._streams.trim_notifications)
            for organization in self._directory.organizations():
                await self._try(partial(self._care_for, organization))
            await self._try(self._duties.fold_lanes)
            await self._try(self._duties.finish_removals)
            if rounds % ORPHANS_EVERY_ROUNDS == 0:
                await self._try(self._duties.remove_orphans)
            await self._try(self._audit.refresh)
            rounds += 1

    async def _care_for(self, organization: Organization) -> None:
        await self._streams.care_for(organization)
        await self._readings.latest.fill(organization.epoch)

    async def _try(self, duty: Callable[[], Awaitable[object]]) -> None:
        try:
            await duty()
        except (Unavailable, ApiError) as error:
            log.debug("persistence.maintenance_postponed", detail=str(error))

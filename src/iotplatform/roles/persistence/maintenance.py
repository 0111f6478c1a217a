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
from iotplatform.roles.persistence.alarms import AlarmWriter
from iotplatform.roles.persistence.ledger_audit import LedgerAudit
from iotplatform.roles.persistence.readings import ReadingWriter
from iotplatform.roles.persistence.stream_care import StreamCare

log = structlog.get_logger(role="persistence")

EVERY_S: Final = 15.0
# A dozen questions to JetStream for each: with a thousand organizations all of them at once, every time, would take a
# third of a core.
CARED_FOR_AT_ONCE: Final = 64
# Going through all of Redis is for once in a while.
ORPHANS_EVERY_ROUNDS: Final = 40


class Duties(msgspec.Struct, frozen=True):
    """What belongs to no single organization."""

    fold_lanes: Callable[[], Awaitable[int]]
    finish_removals: Callable[[], Awaitable[None]]
    finish_device_removals: Callable[[], Awaitable[None]]
    remove_orphans: Callable[[], Awaitable[None]]
    prune_audit: Callable[[], Awaitable[int]]


class Writers(msgspec.Struct, frozen=True):
    """What tells which organizations are ours to care for."""

    readings: ReadingWriter
    alarms: AlarmWriter


class Maintenance:
    """Nothing in here is urgent: what fails is tried again in the next round, and holds up nothing else.

    Of the processes that share the role, an organization is cared for by the holder of its partition 0, and the holder
    of NOTIFICATIONS does what belongs to none of them.
    """

    def __init__(
        self,
        writers: Writers,
        streams: StreamCare,
        audit: LedgerAudit,
        duties: Duties,
        directory: Directory,
    ) -> None:
        self._writers = writers
        self._streams = streams
        self._audit = audit
        self._duties = duties
        self._directory = directory
        self._last = 0

    async def run(self) -> None:
        """Until cancelled."""
        rounds = 0
        while True:
            await asyncio.sleep(EVERY_S)
            held = self._writers.readings.partitions.holds_partition
            organizations = [one for one in self._directory.organizations() if held(one.epoch, 0)]
            for organization in organizations:
                await self._try(partial(self._writers.readings.latest.fill, organization.epoch))
            turn = self._turn_of(organizations)
            await self._try(partial(self._streams.fit, turn))
            for organization in turn:
                await self._try(partial(self._streams.care_for, organization))
            if self._writers.alarms.is_holder:
                await self._do_duties(rounds)
                rounds += 1
            else:
                self._audit.forget()

    async def _do_duties(self, rounds: int) -> None:
        await self._try(self._streams.trim_notifications)
        await self._try(self._duties.fold_lanes)
        await self._try(self._duties.finish_removals)
        await self._try(self._duties.finish_device_removals)
        if rounds % ORPHANS_EVERY_ROUNDS == 0:
            await self._try(self._duties.remove_orphans)
            await self._try(self._duties.prune_audit)
        await self._try(self._audit.refresh)

    def _turn_of(self, organizations: list[Organization]) -> list[Organization]:
        """The next few by epoch: those after the last one first, and then from the beginning."""
        turn = sorted(organizations, key=lambda one: (one.epoch <= self._last, one.epoch))[:CARED_FOR_AT_ONCE]
        if turn:
            self._last = turn[-1].epoch
        return turn

    async def _try(self, duty: Callable[[], Awaitable[object]]) -> None:
        try:
            await duty()
        except (Unavailable, ApiError) as error:
            log.debug("persistence.maintenance_postponed", detail=str(error))

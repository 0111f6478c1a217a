"""The end of a device: its rows in one transaction, then its readings and latest values.

What it has sent is in the stream up to a position, the cut, and may reach the store after the device is gone; so the
cut is kept until persistence has passed it. A device that is made again under the same id begins behind it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Final

import structlog

from iotplatform.adapters.nats.api import ApiError
from iotplatform.adapters.nats.controls import Controls
from iotplatform.adapters.nats.streams import Streams
from iotplatform.adapters.postgres.changes import Change
from iotplatform.adapters.postgres.connection import Database
from iotplatform.adapters.postgres.device_removals import DeviceRemovals, DueRemoval
from iotplatform.adapters.postgres.directory import Directory
from iotplatform.adapters.redis.latest import LatestValues
from iotplatform.domain.control import ForgetDevice
from iotplatform.domain.identifiers import partition_of
from iotplatform.domain.organization import Organization
from iotplatform.domain.telemetry import TelemetryStore
from iotplatform.errors import Unavailable
from iotplatform.runtime.clock import now_us

log = structlog.get_logger()

WITHIN_REQUEST_S: Final = 20.0
# By then every process has heard that the device's tokens are void.
LATE_WRITERS_S: Final = 30.0


class DeviceRemover:
    def __init__(
        self,
        database: Database,
        streams: Streams,
        controls: Controls,
        latest: LatestValues,
        directory: Directory,
        telemetry: Sequence[TelemetryStore],
    ) -> None:
        self._removals = DeviceRemovals(database)
        self._controls = controls
        self._streams = streams
        self._latest = latest
        self._directory = directory
        # Of those that were due when `finish` looked last.
        self.left = 0
        self._telemetry = telemetry

    async def delete(self, organization: Organization, device_id: str, check: Callable[[int], None], by: str) -> bool:
        """False when there is no such device. Analysis is told, and clears the device's alarms.

        Raises:
            Rejected: by `check`, which is told the version that would be deleted.
            Unavailable: PostgreSQL or JetStream is away, and nothing was deleted.
        """
        begun = await self._removals.begin(organization, device_id, check, lambda: self._last_position(organization.id))
        if begun is None:
            return False
        cut, tokens = begun
        try:
            # Other processes hear of it by the change feed; this one need not wait for that.
            await self._directory.apply([Change("device_token", organization.epoch, token) for token in tokens])
            async with asyncio.timeout(WITHIN_REQUEST_S):
                await self._controls.publish(organization, ForgetDevice(device_id, by, now_us()))
                await self._remove(organization.epoch, device_id, cut)
        except (Unavailable, TimeoutError) as error:
            log.warning("device_removal.postponed", organization=organization.id, device=device_id, detail=str(error))
        return True

    async def finish(self) -> None:
        """What came late, and what could not be removed yet.

        Raises:
            Unavailable: a server is away.
        """
        removals = await self._removals.due(LATE_WRITERS_S)
        self.left = len(removals)
        for due in removals:
            cut = due.cut
            if not due.settled:
                if not due.made_again:
                    # It may have been heard for a moment longer, where its end was not known yet.
                    await self._forget(due)
                    cut = await self._last_position(due.organization_id)
                await self._removals.settle(due, cut)
            stored = await self._removals.is_stored(due.epoch, partition_of(due.device_id, due.partitions), cut)
            await self._remove(due.epoch, due.device_id, cut)
            if stored:
                await self._removals.end(due, cut)
                self.left -= 1

    async def _forget(self, due: DueRemoval) -> None:
        """Once more, for what was raised in that moment, and if it could not be told the first time."""
        organization = await self._directory.organization(due.organization_id)
        if organization is not None and organization.epoch == due.epoch:
            await self._controls.publish(organization, ForgetDevice(due.device_id, "", now_us()))

    async def _last_position(self, organization_id: str) -> int:
        try:
            return await self._streams.last_position(organization_id)
        except ApiError as error:
            raise Unavailable("the organization's stream can't be asked for its position") from error

    async def _remove(self, epoch: int, device_id: str, cut: int) -> None:
        for store in self._telemetry:
            await store.remove_device(epoch, device_id, cut)
        await self._latest.drop(epoch, device_id, await self._removals.sensors(epoch, device_id), cut)

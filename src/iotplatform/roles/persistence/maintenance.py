"""What persistence does beside storing: trimming streams, and completing the latest values when Redis was emptied."""

from __future__ import annotations

import asyncio
from typing import Final

import structlog

from iotplatform.adapters.nats.api import ApiError
from iotplatform.adapters.nats.trimming import Trimmer
from iotplatform.adapters.postgres.directory import Directory
from iotplatform.errors import Unavailable
from iotplatform.roles.persistence.alarms import AlarmWriter
from iotplatform.roles.persistence.readings import ReadingWriter

log = structlog.get_logger(role="persistence")

EVERY_S: Final = 15.0


async def maintain(readings: ReadingWriter, alarms: AlarmWriter, trimmer: Trimmer, directory: Directory) -> None:
    """Until cancelled. Nothing in here is urgent: what fails is tried again in the next round.

    Of the processes that share the role, an organization is maintained by the holder of its partition 0.
    """
    while True:
        await asyncio.sleep(EVERY_S)
        try:
            if alarms.is_holder:
                await trimmer.trim_notifications()
            for organization in directory.organizations():
                if not readings.partitions.holds_partition(organization.epoch, 0):
                    continue
                await trimmer.trim(organization)
                await readings.fill_latest(organization.epoch)
        except (Unavailable, ApiError) as error:
            log.debug("persistence.maintenance_postponed", detail=str(error))

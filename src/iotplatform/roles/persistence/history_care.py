"""The care of what is stored for long: partitions made and packed, readings removed that are too old."""

from __future__ import annotations

import asyncio
import datetime as dt
from collections.abc import Awaitable, Callable
from typing import Final

import structlog

from iotplatform.adapters.postgres.expiry import Expired, expire
from iotplatform.adapters.postgres.packing import drop_leftovers, pack_one
from iotplatform.adapters.postgres.reading_partitions import (
    EXPIRING,
    KEEPING,
    PACKING,
    Connection,
    PartitionMaker,
    caring_session,
    partitions,
)
from iotplatform.adapters.postgres.retention import Policies
from iotplatform.domain.timestamps import to_microseconds
from iotplatform.errors import Unavailable
from iotplatform.observability.metrics import Metrics
from iotplatform.roles.persistence.stores import ReadingSink
from iotplatform.runtime.backoff import Backoff

log = structlog.get_logger(role="persistence")

# Late readings that come in masses should not be many before they have a partition.
MAKE_EVERY_S: Final = 2.0
PACK_EVERY_S: Final = 600.0
# What has to wait for somebody's long query keeps others waiting behind itself: so not every few seconds.
FIRST_PAUSE_S: Final = 15.0
LONGEST_PAUSE_S: Final = 900.0


class HistoryCare:
    """`is_ours` tells which of the processes of the role does it; a lock in the database, that no two ever do."""

    def __init__(
        self,
        url: str,
        is_ours: Callable[[], bool],
        metrics: Metrics,
        outside: ReadingSink | None,
        expire_every_s: float,
    ) -> None:
        self._url = url
        self._is_ours = is_ours
        self._metrics = metrics
        self._outside = outside
        self._expire_every_s = expire_every_s
        self._maker = PartitionMaker()

    async def make(self) -> None:
        """Until cancelled."""
        await self._again_and_again(self.make_once, MAKE_EVERY_S)

    async def pack(self) -> None:
        """Until cancelled. A matter of its own: it takes as long as it takes."""
        await self._again_and_again(self.pack_all, PACK_EVERY_S)

    async def expire(self) -> None:
        """Until cancelled. So is this."""
        await self._again_and_again(self.expire_once, self._expire_every_s)

    async def make_once(self) -> None:
        """Raises Unavailable: another time."""
        async with caring_session(self._url, KEEPING) as connection:
            if connection is None:
                return
            if made := await self._maker.make(connection, _now()):
                log.info("persistence.partitions_made", partitions=made)
            self._metrics.reading_partitions.set(len(await partitions(connection)) + 1)

    async def pack_all(self) -> None:
        """Raises Unavailable: another time."""
        async with caring_session(self._url, PACKING) as connection:
            if connection is None:
                return
            await drop_leftovers(connection)
            while (name := await pack_one(connection, _now())) is not None:
                log.info("persistence.partition_packed", partition=name)

    async def expire_once(self) -> None:
        """Raises Unavailable: another time."""
        async with caring_session(self._url, EXPIRING) as connection:
            if connection is None:
                return
            policies = await Policies.load(connection)
            now = _now()
            expired = Expired()
            try:
                await expire(connection, policies, now, expired)
            finally:
                self._count(expired)
            outside = await self._expire_outside(connection, policies, now)
            self._metrics.retention_applied.set(_now().timestamp())
            if expired.rows or expired.partitions or outside:
                log.info(
                    "persistence.readings_expired", rows=expired.rows, partitions=expired.partitions, outside=outside
                )

    async def _expire_outside(self, connection: Connection, policies: Policies, now: dt.datetime) -> int:
        if self._outside is None:
            return 0
        count = 0
        for epoch in policies.epochs:
            series = await policies.series(connection, epoch)
            before = {(one.device_id, one.sensor): to_microseconds(now - dt.timedelta(days=one.days)) for one in series}
            removed = await self._outside.expire(epoch, before)
            self._metrics.readings_expired.add(removed, "influx")
            count += removed
        return count

    def _count(self, expired: Expired) -> None:
        self._metrics.readings_expired.add(expired.rows, "row")
        self._metrics.readings_expired.add(expired.rows_dropped, "partition")
        self._metrics.partitions_dropped.add(len(expired.partitions))

    async def _again_and_again(self, care: Callable[[], Awaitable[None]], every_s: float) -> None:
        backoff = Backoff(min(FIRST_PAUSE_S, every_s), LONGEST_PAUSE_S)
        while True:
            pause_s = MAKE_EVERY_S
            try:
                if self._is_ours():
                    await care()
                    pause_s = every_s
            except Unavailable as error:
                log.debug("persistence.history_care_postponed", detail=str(error))
                await backoff.wait()
            else:
                backoff.reset()
                await asyncio.sleep(pause_s)


def _now() -> dt.datetime:
    return dt.datetime.now(dt.UTC)

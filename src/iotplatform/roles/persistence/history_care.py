"""The care of what is stored for long: partitions made ahead, and packed when they are over."""

from __future__ import annotations

import asyncio
import datetime as dt
from collections.abc import Awaitable, Callable
from typing import Final

import structlog

from iotplatform.adapters.postgres.packing import drop_leftovers, pack_one
from iotplatform.adapters.postgres.reading_partitions import KEEPING, PACKING, PartitionMaker, caring_session
from iotplatform.errors import Unavailable
from iotplatform.runtime.backoff import Backoff

log = structlog.get_logger(role="persistence")

# Late readings that come in masses should not be many before they have a partition.
EVERY_S: Final = 2.0
PACK_EVERY_S: Final = 600.0
# What has to wait for somebody's long query keeps others waiting behind itself: so not every few seconds.
FIRST_PAUSE_S: Final = 15.0
LONGEST_PAUSE_S: Final = 900.0


class HistoryCare:
    """`is_ours` tells which of the processes of the role does it; a lock in the database, that no two ever do."""

    def __init__(self, url: str, is_ours: Callable[[], bool]) -> None:
        self._url = url
        self._is_ours = is_ours
        self._maker = PartitionMaker()

    async def keep(self) -> None:
        """Until cancelled."""
        await self._again_and_again(self.keep_once, EVERY_S)

    async def pack(self) -> None:
        """Until cancelled. A matter of its own: it takes as long as it takes."""
        await self._again_and_again(self.pack_all, PACK_EVERY_S)

    async def keep_once(self) -> None:
        """Raises Unavailable: another time."""
        async with caring_session(self._url, KEEPING) as connection:
            if connection is not None and (made := await self._maker.make(connection, _now())):
                log.info("persistence.partitions_made", partitions=made)

    async def pack_all(self) -> None:
        """Raises Unavailable: another time."""
        async with caring_session(self._url, PACKING) as connection:
            if connection is None:
                return
            await drop_leftovers(connection)
            while (name := await pack_one(connection, _now())) is not None:
                log.info("persistence.partition_packed", partition=name)

    async def _again_and_again(self, care: Callable[[], Awaitable[None]], every_s: float) -> None:
        backoff = Backoff(FIRST_PAUSE_S, LONGEST_PAUSE_S)
        while True:
            try:
                if self._is_ours():
                    await care()
            except Unavailable as error:
                log.debug("persistence.history_care_postponed", detail=str(error))
                await backoff.wait()
            else:
                backoff.reset()
                await asyncio.sleep(every_s)


def _now() -> dt.datetime:
    return dt.datetime.now(dt.UTC)

"""The latest value of each series in Redis: offered with each commit, and completed after Redis was emptied."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from iotplatform.adapters.postgres.persistence import PartitionWork
from iotplatform.adapters.redis.latest import LatestValues
from iotplatform.domain.telemetry import Newest, TelemetryStore
from iotplatform.roles.persistence.blocks import newest_of
from iotplatform.runtime.clock import now_us

# Twice what a command may take in PostgreSQL: no commit of before is under way any more.
SETTLED_AFTER_S: Final = 60


class LatestKeeper:
    def __init__(self, latest: LatestValues, telemetry: TelemetryStore) -> None:
        self._latest = latest
        self._telemetry = telemetry

    async def keep(self, work: Sequence[PartitionWork]) -> None:
        """Offer the newest of each series, before it is committed."""
        newest: dict[int, Newest] = {}
        for part in work:
            newest_of(part, newest.setdefault(part.epoch, {}))
        newest = {epoch: entries for epoch, entries in newest.items() if entries}
        if newest:
            await self._latest.keep(newest)

    async def fill(self, epoch: int) -> None:
        """Make Redis complete again after it was emptied; what is written meanwhile keeps what is newer.

        Not at once: a commit may be under way whose values went into the old Redis and are not in the store yet.
        """
        if await self._latest.is_complete(epoch):
            return
        now = now_us()
        since = await self._latest.incomplete_since(epoch, now)
        if now - since < SETTLED_AFTER_S * 1_000_000:
            return
        newest = await self._telemetry.newest(epoch)
        if newest:
            await self._latest.keep({epoch: newest})
        await self._latest.mark_complete(epoch, since)

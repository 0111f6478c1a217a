"""What happens to a partition without a block: rules change, devices lose their tags, and time passes.

Nothing here is told to us once and for all. Whatever is remembered of a series is compared with the rules as they are
now, whenever those have changed and whenever a partition was taken; so a change that was made while nobody was there
is seen by whoever comes next. The same look finds the series that can fall silent.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection
from typing import Final

import structlog

from iotplatform.adapters.nats.api import ApiError
from iotplatform.adapters.nats.kept_stream import KeptStream
from iotplatform.adapters.nats.partitions import Partition
from iotplatform.adapters.postgres.alarm_episodes import AlarmEpisodes
from iotplatform.adapters.postgres.ingestion import IngestionRoll
from iotplatform.adapters.redis.analysis import AnalysisStore
from iotplatform.domain.identifiers import partition_of
from iotplatform.domain.presence import NEVER, Presence
from iotplatform.errors import Unavailable
from iotplatform.roles.analysis.holding import Held
from iotplatform.roles.analysis.outdated import why_outdated
from iotplatform.roles.analysis.rule_index import RuleIndex
from iotplatform.roles.analysis.rules import Rules
from iotplatform.roles.analysis.states import series_key, series_of, unpack_states
from iotplatform.runtime.clock import now_us
from iotplatform.runtime.pace import Pace

log = structlog.get_logger(role="analysis")

SCANS_AT_ONCE: Final = 2
MOST_AT_ONCE: Final = 5_000


class Due:
    """What an upkeep of one partition is to look at: series with something outdated, and those to be watched anew."""

    __slots__ = ("now", "seeds", "stale")

    def __init__(self, now: int, stale: Collection[bytes], seeds: Collection[bytes]) -> None:
        self.now = now
        self.stale = stale
        self.seeds = seeds


class Upkeep:
    def __init__(
        self,
        store: AnalysisStore,
        rules: Rules,
        episodes: AlarmEpisodes,
        ingestion: IngestionRoll,
        kept: KeptStream,
    ) -> None:
        self._store = store
        self._rules = rules
        self._episodes = episodes
        self._ingestion = ingestion
        self._kept = kept
        self._scanning = asyncio.Semaphore(SCANS_AT_ONCE)
        self.presence: Presence = NEVER

    async def look_for_presence(self) -> None:
        """While PostgreSQL is away, time stands still."""
        try:
            self.presence = await self._ingestion.look()
        except Unavailable as error:
            log.debug("ingestion.unknown", detail=error.detail)

    async def is_needed(self, partition: Partition, held: Held) -> bool:
        """Cheap, and asked twice a second for every partition held."""
        if held.careful_blocks:
            return False
        try:
            index = await self._rules.index(partition.organization.epoch)
        except Unavailable:
            return False
        now = min(now_us(), self.presence.until)
        return held.compared_with is not index or bool(held.outdated) or held.silences.has_due(now)

    async def compare(self, partition: Partition, held: Held) -> None:
        """All that is remembered with the rules. From now on blocks are evaluated by no older ones."""
        index = await self._rules.index(partition.organization.epoch)
        if held.compared_with is index:
            return
        async with self._scanning:
            known: set[tuple[bytes, str]] = set()
            pace = Pace()
            async for piece in self._store.scan(held.hold):
                for key, packed in piece:
                    self._compare_series(held, index, key, packed, known)
                await pace.done(len(piece))
            if index.has_silences:
                await self._find_unwatched(partition, held, index, known)
        held.compared_with = index

    async def clock(self, partition: Partition, held: Held) -> int:
        """Up to when it is known that nothing has arrived but what is evaluated; 0 when there is more to be evaluated.

        Raises:
            Unavailable: a server is away.
        """
        until = min(now_us(), self.presence.until)
        if not held.silences.has_due(until):
            return 0
        try:
            caught_up = await self._kept.is_caught_up(
                partition.organization, partition.number, "analysis", held.position
            )
        except ApiError as error:
            raise Unavailable(str(error)) from error
        return until if caught_up else 0

    def _compare_series(
        self, held: Held, index: RuleIndex, key: bytes, packed: bytes, known: set[tuple[bytes, str]]
    ) -> None:
        device_id, sensor = series_of(key)
        for rule_id, state in unpack_states(packed).items():
            if why_outdated(index, device_id, sensor, rule_id, state) is not None:
                held.outdated.add(key)
            elif index.has_silences and (watch := index.watches.get(rule_id)) and watch.after_us:
                known.add((key, rule_id))
                if state.seen_at:
                    held.silences.put(key, rule_id, state.seen_at + watch.after_us)

    async def _find_unwatched(
        self, partition: Partition, held: Held, index: RuleIndex, known: set[tuple[bytes, str]]
    ) -> None:
        """Series that were heard before there was the rule: their silence counts from now on."""
        organization = partition.organization
        pace = Pace()
        for device_id, sensor in await self._episodes.series(organization.epoch):
            await pace.done(1)
            if partition_of(device_id, organization.partitions) != partition.number:
                continue
            listening = [watch for watch in index.matching(device_id, sensor) if watch.after_us]
            key = series_key(device_id, sensor)
            if any((key, watch.id) not in known for watch in listening):
                held.unwatched.add(key)

"""The partitions in this process's hands: taken, rebuilt when their state is lost, let go in order."""

from __future__ import annotations

import asyncio
from collections.abc import Collection
from typing import Final

import msgspec
import structlog

from iotplatform.adapters.nats.api import ApiError
from iotplatform.adapters.nats.partitions import Partition, PartitionKey
from iotplatform.adapters.redis.analysis import AnalysisStore, Fenced, Hold
from iotplatform.domain.caution import careful_blocks
from iotplatform.errors import Unavailable
from iotplatform.roles.analysis.publishing import TransitionPublisher
from iotplatform.roles.analysis.rebuild import Rebuilder
from iotplatform.roles.analysis.rule_index import RuleIndex
from iotplatform.roles.analysis.silences import Silences
from iotplatform.roles.analysis.states import SeriesStates
from iotplatform.runtime.backoff import Backoff
from iotplatform.runtime.tasks import Tasks

log = structlog.get_logger(role="analysis")

MAX_CACHED_SERIES: Final = 300_000
# A small rebuild is waited for, a large one must not keep others from opening their readers.
REBUILT_WITHIN_S: Final = 1.0
LET_GO_WITHIN_S: Final = 2.0


class Held(msgspec.Struct):
    """A partition in our hands; `states` caches what Redis has, and is right as long as nobody else writes.

    `careful_blocks` are still to be taken up alone; `suspect` is the sequence of the one that is just now.
    """

    hold: Hold
    position: int
    careful_blocks: int = 0
    suspect: int = 0
    states: dict[bytes, SeriesStates] = msgspec.field(default_factory=dict)
    silences: Silences = msgspec.field(default_factory=Silences)
    # What upkeep has found: with which rules the states were compared, the series of which something is outdated, and
    # those whose silence nobody has begun to count.
    compared_with: RuleIndex | None = None
    outdated: set[bytes] = msgspec.field(default_factory=set)
    unwatched: set[bytes] = msgspec.field(default_factory=set)


class Holdings:
    def __init__(
        self, store: AnalysisStore, rebuilder: Rebuilder, publisher: TransitionPublisher, tasks: Tasks
    ) -> None:
        self._store = store
        self._rebuilder = rebuilder
        self._publisher = publisher
        self._tasks = tasks
        self._held: dict[PartitionKey, Held] = {}
        self._taken: set[PartitionKey] = set()
        self._rebuilding: dict[PartitionKey, asyncio.Task[None]] = {}
        self._cached_series = 0

    def of(self, partition: Partition) -> Held | None:
        return self._held.get(partition.key)

    def forget(self, epochs: Collection[int]) -> None:
        """All but these epochs: their organizations are deleted."""
        for key in [key for key in self._taken | self._held.keys() if key[0] not in epochs]:
            self._held.pop(key, None)
            self._taken.discard(key)

    async def acquire(self, partition: Partition) -> int:
        """Take hold of a partition, and publish what its last holder left in the outbox.

        Raises:
            Unavailable: not now; also while it is being rebuilt.
        """
        self._held.pop(partition.key, None)
        rebuilding = self._rebuilding.get(partition.key)
        if rebuilding is not None:
            await self._wait_for(partition, rebuilding)
        try:
            hold = await self._store.acquire(*partition.key, counted=partition.key not in self._taken)
            self._taken.add(partition.key)
            if hold.position is None:
                await self._start(partition, hold)
                hold = msgspec.structs.replace(hold, position=0)
            return await self._take_over(partition, hold)
        except Unavailable:
            raise
        except ApiError as error:  # the organization is being made or deleted: the directory will say which
            raise Unavailable(str(error)) from error
        except Exception as error:  # a fault of ours: it halts this partition and nobody else's
            log.exception("analysis.not_acquired", organization=partition.organization.id, partition=partition.number)
            raise Unavailable(f"the partition can't be acquired: {error!r}") from error

    async def _take_over(self, partition: Partition, hold: Hold) -> int:
        position = hold.position or 0
        if hold.outbox:
            await self._publisher.publish(hold.outbox, wait=False)
            await self._store.clear_outbox([hold])
        careful = careful_blocks(hold.tries, position)
        if careful:
            log.warning(
                "analysis.careful",
                organization=partition.organization.id,
                partition=partition.number,
                position=position,
                holders=hold.tries.holders,
            )
        self._held[partition.key] = Held(hold, position, careful)
        return position

    async def _start(self, partition: Partition, hold: Hold) -> None:
        """There is no position: nothing was ever committed, or it is lost, or there is a history from elsewhere."""
        floor = await self._rebuilder.floor(partition)
        if not floor and not await self._rebuilder.has_history(partition):
            return
        task = self._tasks.spawn(
            self._rebuild(partition, hold, floor), f"rebuild.{partition.organization.id}.{partition.number}"
        )
        self._rebuilding[partition.key] = task
        await self._wait_for(partition, task)
        raise Unavailable("the partition was rebuilt, and is to be acquired anew")

    async def _wait_for(self, partition: Partition, rebuilding: asyncio.Task[None]) -> None:
        await asyncio.wait({rebuilding}, timeout=REBUILT_WITHIN_S)
        if not rebuilding.done():
            raise Unavailable(f"partition {partition.number} of {partition.organization.id} is being rebuilt")
        if self._rebuilding.get(partition.key) is rebuilding:
            del self._rebuilding[partition.key]

    async def _rebuild(self, partition: Partition, hold: Hold, floor: int) -> None:
        """Whatever comes of it: who acquires next finds a position, or begins again."""
        fields = {"organization": partition.organization.id, "partition": partition.number}
        try:
            await self._rebuilder.rebuild(partition, hold, floor)
        except Unavailable as error:
            log.warning("analysis.rebuild_postponed", **fields, detail=error.detail)
        except (Fenced, ApiError) as error:
            log.warning("analysis.rebuild_postponed", **fields, detail=str(error))
        except Exception:
            log.exception("analysis.rebuild_failed", **fields)
            await self.count_failure(hold)

    async def count_failure(self, hold: Hold) -> None:
        try:
            await self._store.count_failure(hold)
        except Unavailable as error:
            log.debug("analysis.failure_not_counted", detail=error.detail)

    async def spare(self, held: Held) -> None:
        """The block that was taken up alone was not handled, and that is not its fault. Waits for Redis."""
        backoff = Backoff(0.1, 2.0)
        while held.suspect:
            try:
                await self._store.spare(held.hold, held.suspect)
                held.suspect = 0
            except Unavailable:
                await backoff.wait()

    async def let_go(self, keys: Collection[PartitionKey] | None = None) -> None:
        """Of some partitions or of all, when nothing of theirs is under way any more; no commit of ours passes then."""
        some = [key for key in (self._held.keys() if keys is None else keys) if key in self._held]
        held = [self._held.pop(key) for key in some]
        self._taken.difference_update(some)
        if not held:
            return
        try:
            async with asyncio.timeout(LET_GO_WITHIN_S):
                for one in held:
                    await self.spare(one)
                await self._store.let_go([one.hold for one in held])
        except (Unavailable, TimeoutError):
            log.debug("analysis.not_let_go", partitions=len(held))

    def cached(self, series: int) -> None:
        """So many more are in memory; when they are too many, all are forgotten and read again."""
        self._cached_series += series

    def bound_cache(self) -> None:
        if self._cached_series > MAX_CACHED_SERIES:
            for held in self._held.values():
                held.states = {}  # what is being evaluated just now keeps its own
            self._cached_series = 0

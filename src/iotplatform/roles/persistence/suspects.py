"""Which partitions are handled block by block, and which block is under suspicion just now. See `domain.caution`."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Collection, Mapping
from contextlib import asynccontextmanager
from typing import Final

import structlog

from iotplatform.adapters.nats.headers import BlockHeaders
from iotplatform.adapters.nats.partitions import Partition, PartitionKey
from iotplatform.adapters.nats.reader import Delivery
from iotplatform.adapters.postgres.partition_tries import PartitionTries
from iotplatform.adapters.postgres.persistence import LaneMark, PartitionWork
from iotplatform.domain.caution import careful_blocks, given_up_detail
from iotplatform.domain.gap import LaneFollower, LanePlace
from iotplatform.errors import Unavailable
from iotplatform.roles.persistence.blocks import Prepared, block_letter
from iotplatform.runtime.backoff import Backoff

log = structlog.get_logger(role="persistence")

LET_GO_WITHIN_S: Final = 2.0


class Suspects:
    """`one_suspect` is shared by all roles of the process: when it ends, one block alone is to blame."""

    def __init__(self, tries: PartitionTries, one_suspect: asyncio.Lock) -> None:
        self._tries = tries
        self._one_suspect = one_suspect
        self._taken: set[PartitionKey] = set()
        self._careful: dict[PartitionKey, int] = {}
        self._under_way: dict[PartitionKey, int] = {}

    async def acquire(self, partition: Partition) -> int | None:
        """The stored position; None when there is no such partition (any more)."""
        key = partition.key
        taken = await self._tries.acquire(*key, counted=key not in self._taken)
        if taken is None:
            return None
        self._taken.add(key)
        self._careful[key] = careful_blocks(taken.tries, taken.position)
        if self._careful[key]:
            log.warning(
                "persistence.careful",
                organization=partition.organization.id,
                partition=partition.number,
                position=taken.position,
                holders=taken.tries.holders,
            )
        return taken.position

    def is_careful(self, key: PartitionKey) -> bool:
        return self._careful.get(key, 0) > 0

    @asynccontextmanager
    async def alone(self, key: PartitionKey, before: int, sequence: int) -> AsyncIterator[int]:
        """While a block is taken up alone. Yields how often it was before; an outage is not counted.

        Raises:
            PositionMoved: another process has the partition.
            Unavailable: from in here or from inside; the block is spared.
        """
        try:
            async with self._one_suspect:
                tries = await self._tries.suspect(*key, before, sequence)
                self._under_way[key] = sequence
                yield tries
        except Unavailable:
            await self._spare(key)
            raise
        except Exception:
            self._under_way.pop(key, None)
            raise
        self._under_way.pop(key, None)
        self._careful[key] = max(0, self._careful.get(key, 0) - 1)

    async def failed(self, key: PartitionKey) -> None:
        """Handling has failed for a reason that nobody knows."""
        try:
            await self._tries.count_failure(*key)
        except Unavailable as error:
            log.debug("persistence.failure_not_counted", detail=error.detail)

    async def let_go(self, keys: Collection[PartitionKey] | None = None) -> None:
        """Of some partitions or of all, when nothing of theirs is under way any more."""
        some = self._taken.intersection(self._taken if keys is None else keys)
        self._taken -= some
        if not some:
            return
        try:
            async with asyncio.timeout(LET_GO_WITHIN_S):
                for key in some & self._under_way.keys():
                    await self._spare(key)
                await self._tries.let_go(some)
        except (Unavailable, TimeoutError):
            log.debug("persistence.not_let_go", partitions=len(some))

    def forget(self, epochs: Collection[int]) -> None:
        """All but these epochs: their organizations are deleted."""
        for key in [key for key in self._taken if key[0] not in epochs]:
            self._taken.discard(key)
            self._careful.pop(key, None)

    async def _spare(self, key: PartitionKey) -> None:
        """The block was not handled, and that is not its fault. Waits for PostgreSQL."""
        backoff = Backoff(0.1, 2.0)
        while (sequence := self._under_way.get(key)) is not None:
            try:
                await self._tries.spare(*key, sequence)
            except Unavailable:
                await backoff.wait()
            else:
                self._under_way.pop(key, None)


def give_up(
    partition: Partition, before: int, delivery: Delivery, known: Mapping[str, LanePlace], tries: int
) -> Prepared:
    """What becomes of a block that can't be handled: a letter, and its readings counted as dead-lettered."""
    lanes = LaneFollower(partition.number, known)
    work = PartitionWork(*partition.key, before, delivery.sequence)
    headers = BlockHeaders.decode(delivery.headers)
    count = headers.count if headers else 0
    if headers:
        source = delivery.subject.rpartition(".")[2]
        place = lanes.follow(headers.lane, headers.number, count, headers.total, delivery.stored_at)
        work.lanes[headers.lane] = LaneMark(headers.lane, source, place.number, place.total, place.seen_at)
        work.gaps = lanes.gaps
    work.dead_lettered = count
    letter = block_letter(partition.number, delivery, "unstorable", given_up_detail(tries), count)
    return Prepared(work, [letter], [], lanes.places)

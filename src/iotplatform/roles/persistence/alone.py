"""Storing the blocks of a careful partition one at a time, see `domain.caution`."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping

import structlog

from iotplatform.adapters.nats.partitions import Partition, PartitionKey
from iotplatform.adapters.nats.reader import Delivery, Reader
from iotplatform.domain.caution import MAX_TRIES
from iotplatform.domain.gap import LanePlace
from iotplatform.errors import Unavailable
from iotplatform.roles.persistence.blocks import Part, prepare
from iotplatform.roles.persistence.suspects import Suspects, give_up
from iotplatform.runtime.backoff import Backoff

log = structlog.get_logger(role="persistence")


class AloneWriter:
    """`write` commits a part, or returns what is left to do again; `positions` are those it has moved, and `lanes`
    where the lanes stand there.
    """

    def __init__(
        self,
        suspects: Suspects,
        write: Callable[[Part], Awaitable[list[Part]]],
        positions: Mapping[PartitionKey, int],
        lanes: Mapping[PartitionKey, Mapping[str, LanePlace]],
    ) -> None:
        self._suspects = suspects
        self._write = write
        self._positions = positions
        self._lanes = lanes

    async def store(self, reader: Reader, partition: Partition, deliveries: list[Delivery]) -> None:
        """All of them, or up to where the partition was lost; an outage is waited out.

        Raises:
            PositionMoved: another process has the partition.
            Exception: what handling a block raised.
        """
        backoff = Backoff(0.1, 5.0)
        for delivery in deliveries:
            while (before := self._positions.get(partition.key)) is not None and before < delivery.sequence:
                try:
                    await self._store_one(reader, partition, before, delivery)
                except Unavailable as error:
                    log.warning("persistence.waiting", detail=error.detail)
                    await backoff.wait()
                    continue
                backoff.reset()
                if self._positions.get(partition.key) != delivery.sequence:
                    return  # fenced, and the reader goes back

    async def _store_one(self, reader: Reader, partition: Partition, before: int, delivery: Delivery) -> None:
        key = partition.key
        async with self._suspects.alone(key, before, delivery.sequence) as tries:
            if tries >= MAX_TRIES:
                prepared = give_up(partition, before, delivery, self._lanes[key], tries)
            else:
                prepared = prepare(*key, before, [delivery], self._lanes[key])
            parts: list[Part] = [(reader, partition, delivery, prepared)]
            while parts:
                parts = await self._write(parts[0])

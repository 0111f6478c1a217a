"""Where the readings of blocks go, together with the positions that their commits move."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

from iotplatform.adapters.postgres.persistence import PartitionWork, ReadingStore
from iotplatform.domain.gap import LanePlace
from iotplatform.domain.telemetry import Entry, SeriesKey


class BlockStore(Protocol):
    async def store(self, work: Sequence[PartitionWork]) -> None:
        """Readings, ledger counts, positions: once it returns, all of it is kept.

        Raises:
            PositionMoved: at least one partition is not where `before` says; no position was moved.
            UnstorableData: the store refuses some of the readings; no position was moved.
            Unavailable: a server is away; whether it was stored, the positions tell.
        """

    async def refusal(self, readings: Sequence[Entry], epoch: int) -> str | None:
        """Why the store does not take these readings, tried for real; None when it does."""

    async def lanes(self, epoch: int, partition: int) -> dict[str, LanePlace]:
        """How far the lanes of a partition have come, to be asked for after its position."""


class ReadingSink(Protocol):
    """A store that knows nothing of positions; writing the same again changes nothing."""

    async def write(self, readings: Sequence[tuple[int, Sequence[Entry]]]) -> None:
        """Readings by epoch.

        Raises:
            UnstorableData: some are refused.
            Unavailable: the server is away.
        """

    async def refusal(self, readings: Sequence[Entry], epoch: int) -> str | None:
        """Why it does not take these readings; None when it does."""

    async def expire(self, epoch: int, before: Mapping[SeriesKey, int]) -> int:
        """Remove what is older than its series is kept, in microseconds; how many readings that were."""


class OutsideStore:
    """Readings in a sink, and what they amount to in PostgreSQL.

    They are written first: a crash in between leaves the position where it was, and the same blocks are written again
    over themselves and counted once.
    """

    def __init__(self, sink: ReadingSink, ledger: ReadingStore) -> None:
        self._sink = sink
        self._ledger = ledger

    async def store(self, work: Sequence[PartitionWork]) -> None:
        await self._sink.write([(part.epoch, part.readings) for part in work if part.readings])
        await self._ledger.count(work)

    async def refusal(self, readings: Sequence[Entry], epoch: int) -> str | None:
        return await self._sink.refusal(readings, epoch)

    async def lanes(self, epoch: int, partition: int) -> dict[str, LanePlace]:
        return await self._ledger.lanes(epoch, partition)

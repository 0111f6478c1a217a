"""Where the readings of blocks go, together with the positions that their commits move."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from iotplatform.adapters.postgres.persistence import PartitionWork
from iotplatform.domain.gap import LanePlace
from iotplatform.domain.telemetry import Entry


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

"""The ledger: what became of every reading that was accepted."""

from __future__ import annotations

import msgspec


class LedgerEntry(msgspec.Struct, frozen=True):
    """Counts of readings. Balanced: accepted = stored + dead-lettered + in flight, and no gaps."""

    organization_id: str
    accepted: int
    stored: int
    dead_lettered: int
    in_flight: int
    refused: int
    unused: int
    balanced: bool
    gaps: tuple[str, ...] = ()

    @property
    def imbalance(self) -> int:
        """Accepted readings of which nobody knows what became of them; negative when there are too many."""
        return self.accepted - self.stored - self.dead_lettered - self.in_flight

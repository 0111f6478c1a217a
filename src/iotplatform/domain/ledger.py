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

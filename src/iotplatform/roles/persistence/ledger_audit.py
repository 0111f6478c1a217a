"""The ledger's gauges: every organization in its turn, a few in a round, and never while somebody scrapes."""

from __future__ import annotations

import heapq
from collections.abc import Awaitable, Callable
from typing import Final

from iotplatform.adapters.nats.api import ApiError
from iotplatform.adapters.postgres.directory import Directory
from iotplatform.domain.ledger import LedgerEntry
from iotplatform.domain.organization import Organization
from iotplatform.errors import Unavailable
from iotplatform.observability.metrics import Metrics

AT_ONCE: Final = 20
# Each is a series of Prometheus: what balances is not worth so many.
MOST_SHOWN: Final = 50


class LedgerAudit:
    def __init__(
        self, read: Callable[[Organization], Awaitable[LedgerEntry]], directory: Directory, metrics: Metrics
    ) -> None:
        self._read = read
        self._directory = directory
        self._metrics = metrics
        self._last = ""
        self._imbalances: dict[str, int] = {}
        self._gaps: dict[str, int] = {}

    def forget(self) -> None:
        """Another process shows them."""
        self._imbalances.clear()
        self._gaps.clear()
        self._metrics.ledger_imbalance.values.clear()
        self._metrics.ledger_gaps.values.clear()
        self._metrics.removals_left.values.clear()

    async def refresh(self) -> None:
        """The next few organizations by id; those that can't be read keep their values."""
        organizations = {organization.id: organization for organization in self._directory.organizations()}
        for known in (self._imbalances, self._gaps):
            for organization_id in known.keys() - organizations.keys():
                del known[organization_id]
        # Those after the last one first, and then from the beginning.
        ids = sorted(organizations, key=lambda organization_id: (organization_id <= self._last, organization_id))
        for organization_id in ids[:AT_ONCE]:
            self._last = organization_id
            try:
                entry = await self._read(organizations[organization_id])
            except (Unavailable, ApiError):
                continue
            self._imbalances[organization_id] = entry.imbalance
            self._gaps[organization_id] = len(entry.gaps)
        self._metrics.ledger_imbalance.values = worst_of(self._imbalances)
        self._metrics.ledger_gaps.values = worst_of(self._gaps)


def worst_of(found: dict[str, int]) -> dict[tuple[str, ...], float]:
    """By organization; of more than are shown those that are furthest from 0."""
    worst = heapq.nlargest(MOST_SHOWN, found.items(), key=lambda item: abs(item[1]))
    return {(organization_id,): float(value) for organization_id, value in worst}

"""The ledger's gauges: every organization in its turn, a few in a round, and never while somebody scrapes."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Final

from iotplatform.adapters.nats.api import ApiError
from iotplatform.adapters.postgres.directory import Directory
from iotplatform.domain.ledger import LedgerEntry
from iotplatform.domain.organization import Organization
from iotplatform.errors import Unavailable
from iotplatform.observability.metrics import Metrics

AT_ONCE: Final = 20


class LedgerAudit:
    def __init__(
        self, read: Callable[[Organization], Awaitable[LedgerEntry]], directory: Directory, metrics: Metrics
    ) -> None:
        self._read = read
        self._directory = directory
        self._metrics = metrics
        self._last = ""

    def forget(self) -> None:
        """Another process shows them."""
        self._metrics.ledger_imbalance.values.clear()
        self._metrics.ledger_gaps.values.clear()
        self._metrics.removals_left.values.clear()

    async def refresh(self) -> None:
        """The next few organizations by id; those that can't be read keep their values."""
        organizations = {organization.id: organization for organization in self._directory.organizations()}
        for values in (self._metrics.ledger_imbalance.values, self._metrics.ledger_gaps.values):
            for key in [key for key in values if key[0] not in organizations]:
                del values[key]
        # Those after the last one first, and then from the beginning.
        ids = sorted(organizations, key=lambda organization_id: (organization_id <= self._last, organization_id))
        for organization_id in ids[:AT_ONCE]:
            self._last = organization_id
            try:
                entry = await self._read(organizations[organization_id])
            except (Unavailable, ApiError):
                continue
            self._metrics.ledger_imbalance.values[organization_id,] = entry.imbalance
            self._metrics.ledger_gaps.values[organization_id,] = len(entry.gaps)

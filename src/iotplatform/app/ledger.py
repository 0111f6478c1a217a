"""The ledger of an organization: PostgreSQL's counts up to a position, and the stream above it."""

from __future__ import annotations

from iotplatform.adapters.nats.backlog import BacklogCounter
from iotplatform.adapters.postgres.ledger import Ledger
from iotplatform.adapters.redis.counters import Counters
from iotplatform.domain.ledger import LedgerEntry
from iotplatform.domain.organization import Organization


class LedgerReader:
    """Accepted is the sum of the lanes' last running totals, so a block that vanished is missed on the other side."""

    def __init__(self, ledger: Ledger, backlog: BacklogCounter, counters: Counters) -> None:
        self._ledger = ledger
        self._backlog = backlog
        self._counters = counters

    async def read(self, organization: Organization) -> LedgerEntry:
        accepted = stored = dead_lettered = in_flight = 0
        for partition in await self._ledger.handled(organization.epoch):
            backlog = await self._backlog.count(organization, partition.number, partition.position)
            accepted += sum({**partition.lane_totals, **backlog.lane_totals}.values())
            stored += partition.stored
            dead_lettered += partition.dead_lettered
            in_flight += backlog.readings
        counts = await self._counters.read(organization.epoch)
        return LedgerEntry(
            organization_id=organization.id,
            accepted=accepted,
            stored=stored,
            dead_lettered=dead_lettered,
            in_flight=in_flight,
            refused=counts.get("refused", 0),
            unused=counts.get("unused", 0),
            balanced=accepted == stored + dead_lettered + in_flight,
        )

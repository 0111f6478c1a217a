"""The ledger of an organization: PostgreSQL's counts up to a position, and the stream above it."""

from __future__ import annotations

from iotplatform.adapters.nats.backlog import BacklogCounter
from iotplatform.adapters.nats.connection import Connection
from iotplatform.adapters.nats.stream_gaps import StreamStates
from iotplatform.adapters.nats.subjects import organization_stream
from iotplatform.adapters.postgres.connection import Database
from iotplatform.adapters.postgres.gaps import Gaps
from iotplatform.adapters.postgres.ledger import HandledPartition, Ledger
from iotplatform.adapters.redis.counters import Counters
from iotplatform.domain.gap import Gap, LostPosition, describe_gaps, join_gaps, vanished
from iotplatform.domain.ledger import LedgerEntry
from iotplatform.domain.organization import Organization


class LedgerReader:
    """Accepted is the sum of the lanes' last running totals, so a block that vanished is missed on the other side."""

    def __init__(self, database: Database, connection: Connection, counters: Counters) -> None:
        self._ledger = Ledger(database)
        self._gaps = Gaps(database)
        self._backlog = BacklogCounter(connection)
        self._streams = StreamStates(connection)
        self._counters = counters

    async def read(self, organization: Organization) -> LedgerEntry:
        """What is true at some moment while it is read.

        Raises:
            Unavailable: a server is away.
        """
        accepted = stored = dead_lettered = in_flight = 0
        handled = await self._ledger.handled(organization.epoch)
        gaps = list(handled.gaps)
        for partition in handled.partitions:
            backlog = await self._backlog.count(organization, partition.number, partition.position, partition.lanes)
            known = {lane: place.total for lane, place in partition.lanes.items()}
            accepted += partition.folded + sum({**known, **backlog.lane_totals}.values())
            stored += partition.stored
            dead_lettered += partition.dead_lettered
            in_flight += backlog.readings
            gaps += backlog.gaps
        gaps += await self.find_vanished(organization, handled.partitions)
        counts = await self._counters.read(organization.epoch)
        sentences = describe_gaps(organization_stream(organization.id), join_gaps(gaps), unread=handled.unread_gaps)
        return LedgerEntry(
            organization_id=organization.id,
            accepted=accepted,
            stored=stored,
            dead_lettered=dead_lettered,
            in_flight=in_flight,
            refused=counts.get("refused", 0),
            unused=counts.get("unused", 0),
            balanced=accepted == stored + dead_lettered + in_flight and not sentences,
            gaps=sentences,
        )

    async def find_vanished(self, organization: Organization, handled: list[HandledPartition]) -> list[Gap]:
        """What the stream lacks. The order matters: positions before the stream, and the stream before the cuts.

        A position read later could lie above the end of the stream as it was, and what is trimmed after the stream was
        read is not missing in it; a cut is stored before it is made.
        """
        state = await self._streams.read(organization)
        lost = [
            LostPosition(partition.number, partition.position)
            for partition in handled
            if partition.position > state.last
        ]
        return [*lost, *vanished(state, await self._gaps.trimmed(organization.epoch))]

    async def look_for_vanished(self, organization: Organization) -> list[Gap]:
        """The same by itself, for whoever keeps what was found."""
        handled = await self._ledger.handled(organization.epoch)
        return await self.find_vanished(organization, handled.partitions)

"""What the routes of management work with."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping

import msgspec

from iotplatform.adapters.nats.controls import Controls
from iotplatform.adapters.nats.dead_letters import DeadLetters
from iotplatform.adapters.nats.replay import Replayer
from iotplatform.adapters.nats.streams import Streams
from iotplatform.adapters.postgres.connection import Database
from iotplatform.adapters.postgres.directory import Directory
from iotplatform.adapters.postgres.limits import LimitBooks
from iotplatform.adapters.postgres.removals import Check
from iotplatform.adapters.redis.analysis_view import AnalysisView
from iotplatform.adapters.redis.latest import LatestValues
from iotplatform.adapters.secrets.vault import Vault
from iotplatform.adapters.tokens.device_tokens import DeviceTokens
from iotplatform.adapters.webhook.addresses import Destinations
from iotplatform.domain.identifiers import identifier_fault
from iotplatform.domain.ledger import LedgerEntry
from iotplatform.domain.limit import Limits
from iotplatform.domain.notification import NotificationChannel
from iotplatform.domain.organization import Organization
from iotplatform.domain.querying.query import QueryLimits
from iotplatform.domain.querying.store import QueryStore
from iotplatform.domain.rule import Rule
from iotplatform.domain.telemetry import TelemetryStore
from iotplatform.errors import Rejected
from iotplatform.roles.management.backtests import Backtests
from iotplatform.roles.management.entrance import Entrance
from iotplatform.roles.management.live_streams import LiveStreams
from iotplatform.roles.management.query_slots import QuerySlots
from iotplatform.roles.management.test_turns import TestTurns


class ManagementContext(msgspec.Struct, frozen=True):
    """`default_rule` makes the rule that a new organization of this id gets.

    `delete_organization` and `delete_device` remove every trace; False when there is none. `limits` are those of the
    settings.
    """

    database: Database
    directory: Directory
    tokens: DeviceTokens
    entrance: Entrance
    streams: Streams
    latest: LatestValues
    telemetry: TelemetryStore
    ledger: Callable[[Organization], Awaitable[LedgerEntry]]
    dead_letters: DeadLetters
    controls: Controls
    replayer: Replayer
    dropped_letters: Callable[[Organization], Awaitable[int]]
    analysis: AnalysisView
    backtests: Backtests
    default_rule: Callable[[str], Rule]
    delete_organization: Callable[[Organization, Check], Awaitable[bool]]
    delete_device: Callable[[Organization, str, Check, str], Awaitable[bool]]
    limits: Limits
    limit_books: LimitBooks
    queries: QueryStore
    query_slots: QuerySlots
    query_limits: QueryLimits
    vault: Vault
    destinations: Destinations
    channels: Mapping[str, NotificationChannel]
    test_turns: TestTurns
    live: LiveStreams

    async def organization(self, organization_id: str) -> Organization:
        """The organization of a request.

        Raises:
            Rejected: there is none.
            Unavailable: it isn't known, and PostgreSQL is away.
        """
        found = await self.directory.organization(organization_id)
        if found is None:
            raise not_found("organization", organization_id)
        return found


def not_found(kind: str, identifier: str) -> Rejected:
    return Rejected("not_found", f"there is no {kind} {identifier!r}")


def known_form(kind: str, identifier: str) -> str:
    """An id in a path that could exist; any other is not asked for at all."""
    if identifier_fault(identifier):
        raise not_found(kind, identifier)
    return identifier

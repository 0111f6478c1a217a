"""The management application on a real PostgreSQL, with plain objects where JetStream and Redis would be."""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import argon2
import httpx
import pytest
from litestar import Litestar

from iotplatform.adapters.nats.dead_letters import LetterPage, PlacedLetter
from iotplatform.adapters.nats.replay import ReplayResult
from iotplatform.adapters.passwords.hasher import PasswordHasher
from iotplatform.adapters.postgres import tokens
from iotplatform.adapters.postgres.changes import Change
from iotplatform.adapters.postgres.connection import Database
from iotplatform.adapters.postgres.device_removals import DeviceRemovals
from iotplatform.adapters.postgres.directory import Directory
from iotplatform.adapters.postgres.limits import LimitBooks
from iotplatform.adapters.postgres.removals import Check, Removals
from iotplatform.adapters.postgres.telemetry import PostgresTelemetry
from iotplatform.adapters.postgres.telemetry_queries import TelemetryQueries
from iotplatform.adapters.secrets.vault import Vault
from iotplatform.adapters.tokens.authenticator import Authenticator
from iotplatform.adapters.tokens.device_tokens import DeviceTokens
from iotplatform.adapters.tokens.keys import SigningKeys
from iotplatform.adapters.tokens.user_tokens import UserTokens
from iotplatform.adapters.tokens.verifier import Verifier
from iotplatform.adapters.webhook.addresses import Destinations, WebhookSettings
from iotplatform.app.http.hosts import HostCheck
from iotplatform.app.http.openapi import openapi_config
from iotplatform.app.http.problems import EXCEPTION_HANDLERS
from iotplatform.domain.control import Control
from iotplatform.domain.dead_letter import DeadLetter, LetterFilter
from iotplatform.domain.evaluation import RuleState
from iotplatform.domain.ledger import LedgerEntry
from iotplatform.domain.limit import Limits
from iotplatform.domain.live import LiveLimits
from iotplatform.domain.notification import Notification
from iotplatform.domain.organization import Organization
from iotplatform.domain.querying.query import QueryLimits
from iotplatform.domain.querying.store import QueryStore
from iotplatform.domain.reading import Value
from iotplatform.domain.rule import Rule, Threshold
from iotplatform.domain.telemetry import TelemetryStore
from iotplatform.roles.management.backtests import Backtests
from iotplatform.roles.management.context import ManagementContext
from iotplatform.roles.management.entrance import Entrance, Guesses
from iotplatform.roles.management.live_streams import LiveStreams
from iotplatform.roles.management.query_slots import QuerySlots
from iotplatform.roles.management.routes import routes
from iotplatform.roles.management.test_turns import TestTurns


class Streams:
    def __init__(self) -> None:
        self.created: list[Organization] = []
        self.sizes: dict[str, int | None] = {}
        self.failure: Exception | None = None

    async def renew_organization(self, organization: Organization) -> None:
        if self.failure is not None:
            raise self.failure
        self.created.append(organization)

    async def resize_organization(self, organization_id: str, max_bytes: int | None) -> None:
        self.sizes[organization_id] = max_bytes


class Latest:
    def __init__(self) -> None:
        self.known: list[tuple[str, str, Value, int]] | None = None
        self.failure: Exception | None = None

    async def page(
        self, epoch: int, device_ids: list[str], after: tuple[str, str] | None, limit: int
    ) -> list[tuple[str, str, Value, int]] | None:
        if self.failure is not None:
            raise self.failure
        if self.known is None:
            return None
        wanted = [entry for entry in sorted(self.known) if not device_ids or entry[0] in device_ids]
        return [entry for entry in wanted if after is None or entry[:2] > after][:limit]


class Analysis:
    """`known`: by sensor, what analysis remembers; the same for every device."""

    def __init__(self) -> None:
        self.position: int | None = 1_000
        self.known: dict[str, dict[str, RuleState]] = {}

    async def states(
        self, epoch: int, partition: int, device_id: str, sensors: list[str]
    ) -> tuple[int | None, list[dict[str, RuleState]]]:
        return self.position, [self.known.get(sensor, {}) for sensor in sensors]


class DeadLetters:
    def __init__(self) -> None:
        self.letters: list[tuple[int, DeadLetter]] = []

    async def page(self, organization: Organization, limit: int, after: int, wanted: LetterFilter) -> LetterPage:
        self.wanted = wanted
        found = [PlacedLetter(*entry) for entry in self.letters if entry[0] > after and wanted.matches(entry[1])]
        return LetterPage(found[:limit], found[limit - 1].place if len(found) > limit else None)


class Replayer:
    def __init__(self) -> None:
        self.asked: list[str] = []

    async def replay(self, organization: Organization, ids: list[str], now: int) -> list[ReplayResult]:
        self.asked = ids
        return [ReplayResult(id_, "refused", "why") if id_ == "bad.1" else ReplayResult(id_, "replayed") for id_ in ids]


class Controls:
    def __init__(self) -> None:
        self.published: list[tuple[str, Control]] = []
        self.failure: Exception | None = None

    async def publish(self, organization: Organization, control: Control) -> None:
        if self.failure is not None:
            raise self.failure
        self.published.append((organization.id, control))


class Channel:
    """Takes every notification, or fails."""

    def __init__(self) -> None:
        self.sent: list[Notification] = []
        self.failure: Exception | None = None

    async def send(self, notification: Notification) -> None:
        if self.failure is not None:
            raise self.failure
        self.sent.append(notification)


class Stubs:
    def __init__(self) -> None:
        # Nothing in here follows a stream.
        self.connection: Any = None
        self.channel = Channel()
        self.names = {"hooks.example.org": ["93.184.216.34"], "inner.example.org": ["10.0.0.7"]}
        self.controls = Controls()
        self.streams = Streams()
        self.latest = Latest()
        self.analysis = Analysis()
        self.dead_letters = DeadLetters()
        self.replayer = Replayer()

    async def resolve(self, host: str, port: int) -> list[str]:
        if host not in self.names:
            raise OSError("no such name")
        return self.names[host]

    async def dropped_letters(self, organization: Organization) -> int:
        return 12

    async def ledger(self, organization: Organization) -> LedgerEntry:
        return LedgerEntry(organization.id, 10, 7, 1, 2, 3, 0, balanced=True)


async def no_position() -> int:
    return 0


def default_rule(organization_id: str) -> Rule:
    return Rule("default", organization_id, "Temperature too high", "temp*", Threshold(">", 80.0))


@pytest.fixture(scope="module")
async def database(database_url: str) -> AsyncIterator[Database]:
    opened = await Database.open(database_url)
    yield opened
    await opened.close()


@pytest.fixture
def stubs() -> Stubs:
    return Stubs()


@pytest.fixture(scope="session")
def keys() -> SigningKeys:
    return SigningKeys.load([SigningKeys.make_pem()])


@pytest.fixture(scope="module")
async def queries(database_url: str) -> AsyncIterator[TelemetryQueries]:
    opened = await TelemetryQueries.open(database_url, 4)
    yield opened
    opened.close()


@pytest.fixture
def telemetry(database: Database) -> TelemetryStore:
    return PostgresTelemetry(database)


@pytest.fixture
async def context(
    database: Database, telemetry: TelemetryStore, queries: QueryStore, stubs: Stubs, keys: SigningKeys
) -> ManagementContext:
    await tokens.register_keys(database, keys.public_pems)
    directory = Directory(database)

    async def delete_organization(organization: Organization, check: Check) -> bool:
        removal = await Removals(database).begin(organization, check)
        await directory.apply([Change("organization", organization.epoch, organization.id)])
        return removal is not None

    async def delete_device(organization: Organization, device_id: str, check: Check, by: str) -> bool:
        return await DeviceRemovals(database).begin(organization, device_id, check, no_position) is not None

    parts: dict[str, Any] = {
        "streams": stubs.streams,
        "latest": stubs.latest,
        "analysis": stubs.analysis,
        "ledger": stubs.ledger,
        "controls": stubs.controls,
        "dead_letters": stubs.dead_letters,
        "replayer": stubs.replayer,
        "dropped_letters": stubs.dropped_letters,
    }
    return ManagementContext(
        database=database,
        directory=directory,
        tokens=DeviceTokens(keys),
        entrance=Entrance(
            Authenticator(Verifier(directory.public_key, directory.token_is_live), directory.credentials),
            UserTokens(keys),
            PasswordHasher(argon2.PasswordHasher(time_cost=1, memory_cost=64, parallelism=1)),
            Guesses(),
        ),
        backtests=Backtests(database.url),
        telemetry=telemetry,
        default_rule=default_rule,
        delete_organization=delete_organization,
        delete_device=delete_device,
        limits=Limits(),
        limit_books=LimitBooks(database, Limits()),
        queries=queries,
        query_slots=QuerySlots(2),
        query_limits=QueryLimits(),
        vault=Vault.open_with(Vault.make_key()),
        destinations=Destinations(WebhookSettings(), stubs.resolve),
        channels={"log": stubs.channel, "email": stubs.channel, "webhook": stubs.channel},
        test_turns=TestTurns(),
        live=LiveStreams(stubs.connection, LiveLimits()),
        **parts,
    )


@asynccontextmanager
async def client_of(context: ManagementContext) -> AsyncIterator[httpx.AsyncClient]:
    """A client of the application that serves this context: as there, hosts are checked in open mode only."""
    app = Litestar(
        routes(context),
        exception_handlers=EXCEPTION_HANDLERS,
        openapi_config=openapi_config("Management"),
        logging_config=None,
    )
    served = app if context.entrance.required else HostCheck(app)
    transport = httpx.ASGITransport(served)  # type: ignore[arg-type]
    async with httpx.AsyncClient(transport=transport, base_url="http://localhost:8081") as opened:
        yield opened


@pytest.fixture
async def client(context: ManagementContext) -> AsyncIterator[httpx.AsyncClient]:
    async with client_of(context) as opened:
        yield opened


@pytest.fixture
async def org(client: httpx.AsyncClient) -> str:
    """A new organization."""
    organization_id = f"org-{uuid.uuid4().hex}"
    answer = await client.post("/organizations", json={"id": organization_id, "name": "A Corp"})
    assert answer.status_code == 201, answer.text
    return organization_id

"""Which role needs what: the one place where roles meet adapters."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Callable
from contextlib import AsyncExitStack
from functools import partial
from typing import Any, Protocol

import msgspec

from iotplatform.adapters.embedded import DataDirectory
from iotplatform.adapters.nats.controls import Controls
from iotplatform.adapters.nats.dead_letters import DeadLetters
from iotplatform.adapters.nats.readers import Readers
from iotplatform.adapters.nats.replay import Replayer
from iotplatform.adapters.nats.shares import SharedReaders
from iotplatform.adapters.passwords.hasher import PasswordHasher
from iotplatform.adapters.postgres.alarm_episodes import AlarmEpisodes
from iotplatform.adapters.postgres.checkpoints import Checkpoints
from iotplatform.adapters.postgres.ingestion import IngestionRoll
from iotplatform.adapters.postgres.limits import LimitBooks, set_quota_defaults
from iotplatform.adapters.postgres.replayed_letters import ReplayedLetters
from iotplatform.adapters.postgres.tokens import register_keys
from iotplatform.adapters.postgres.users import any_administrator
from iotplatform.adapters.redis.analysis import AnalysisStore
from iotplatform.adapters.redis.analysis_view import AnalysisView
from iotplatform.adapters.redis.latest import LatestValues
from iotplatform.adapters.redis.leases import TokenLeases
from iotplatform.adapters.tokens.authenticator import Authenticator
from iotplatform.adapters.tokens.device_tokens import DeviceTokens
from iotplatform.adapters.tokens.keys import SigningKeys
from iotplatform.adapters.tokens.user_tokens import UserTokens
from iotplatform.adapters.tokens.verifier import Verifier
from iotplatform.app.doors import ingest_role
from iotplatform.app.http.apps import ingest_app, management_app
from iotplatform.app.http.hosts import HostRules
from iotplatform.app.http.hot_path import HotPath
from iotplatform.app.ledger import LedgerReader
from iotplatform.app.letters import dropped_letters
from iotplatform.app.members import membership_of
from iotplatform.app.removal import OrganizationRemover
from iotplatform.app.resources import Resources
from iotplatform.app.sending import sending_of
from iotplatform.app.settings import RoleName, Settings, is_loopback
from iotplatform.app.storing import device_remover, persistence_role
from iotplatform.app.telemetry import open_queries
from iotplatform.domain.credentials import SETUP_TOKEN_PREFIX
from iotplatform.observability.metrics import Metrics
from iotplatform.roles.analysis.role import AnalysisParts, AnalysisRole
from iotplatform.roles.management.backtests import Backtests
from iotplatform.roles.management.context import ManagementContext
from iotplatform.roles.management.entrance import Entrance, Guesses
from iotplatform.roles.management.live_streams import LiveStreams
from iotplatform.roles.management.query_slots import QuerySlots
from iotplatform.roles.management.role import ManagementRole
from iotplatform.roles.management.routes import routes
from iotplatform.roles.management.test_turns import TestTurns
from iotplatform.roles.notification.role import NotificationRole


class Role(Protocol):
    """`start` returns when the role works, `wait` raises when one of its tasks has died, `stop` drains."""

    name: str

    async def start(self) -> None: ...

    async def wait(self) -> None: ...

    async def stop(self) -> None: ...


class Assembly(msgspec.Struct):
    """The roles of this process, the applications they bring, and the readers whose lag is shown.

    `endings` are called when the process is told to stop: what they end would hold up the HTTP server for ever.
    """

    roles: list[Role] = msgspec.field(default_factory=list)
    apps: dict[str, Any] = msgspec.field(default_factory=dict)
    hot_paths: dict[str, HotPath] = msgspec.field(default_factory=dict)
    setup_token: str | None = None
    readers: list[Readers] = msgspec.field(default_factory=list)
    shares: list[SharedReaders] = msgspec.field(default_factory=list)
    endings: list[Callable[[], None]] = msgspec.field(default_factory=list)


async def assemble(
    names: frozenset[RoleName],
    settings: Settings,
    resources: Resources,
    data: DataDirectory,
    metrics: Metrics,
    stack: AsyncExitStack,
) -> Assembly:
    """In the order in which they start: what stores before what sends."""
    made = Assembly()
    connection, directory = resources.connection, resources.directory
    dead_letters = DeadLetters(connection, resources.publisher, resources.streams)
    authenticator = Authenticator(Verifier(directory.public_key, directory.token_is_live), directory.credentials)
    latest = LatestValues(resources.redis)
    limit_books = await _limit_books(settings, resources)
    # When the process ends while a block is taken up alone, nothing but that block was.
    one_suspect = asyncio.Lock()

    sending = sending_of(settings, data)

    if "persistence" in names:
        persistence = await persistence_role(settings, resources, data, metrics, stack, one_suspect)
        made.roles.append(persistence)
        made.readers += [persistence.readings.readers, persistence.alarms.readers]
        made.shares.append(persistence.readings.partitions)
    if "notification" in names:
        membership = membership_of("notification", resources, data)
        notification = NotificationRole(
            connection, resources.database, dead_letters, sending.channels, sending.vault, metrics, membership
        )
        made.roles.append(notification)
        made.readers.append(notification.readers)
        made.shares.append(notification.notifications)
    if "analysis" in names:
        analysis = AnalysisRole(
            AnalysisParts(
                connection=connection,
                publisher=resources.publisher,
                store=AnalysisStore(resources.redis),
                counters=resources.counters,
                directory=directory,
                dead_letters=dead_letters,
                episodes=AlarmEpisodes(resources.database),
                ingestion=IngestionRoll(resources.database),
                checkpoints=Checkpoints(resources.database),
                one_suspect=one_suspect,
            ),
            metrics,
            membership_of("analysis", resources, data),
        )
        made.roles.append(analysis)
        made.readers.append(analysis.readers)
        made.shares.append(analysis.partitions)
    if "ingest" in names:
        ingest = ingest_role(settings, resources, data, metrics, limit_books, authenticator)
        made.roles.append(ingest)
        made.readers.append(ingest.intake.readers)
        made.shares.append(ingest.intake.organizations)
        app = ingest_app(ingest.endpoints, host_rules(settings, settings.ingest.host))
        made.apps["ingest"] = app
        made.hot_paths["ingest"] = HotPath(ingest.endpoint, app.knows)
    if "management" in names:
        keys = await _signing_keys(settings, data, resources)
        made.setup_token = await _setup_token(settings, resources)
        await set_quota_defaults(resources.database, settings.limits)
        replayed = ReplayedLetters(resources.database)
        remover = OrganizationRemover(
            resources.database, connection, resources.redis, directory, resources.telemetry.all
        )
        context = ManagementContext(
            database=resources.database,
            directory=directory,
            tokens=DeviceTokens(keys),
            entrance=_entrance(settings, resources, authenticator, keys, made.setup_token),
            streams=resources.streams,
            latest=latest,
            telemetry=resources.telemetry.store,
            ledger=LedgerReader(resources.database, connection, resources.counters).read,
            dead_letters=dead_letters,
            controls=Controls(resources.publisher),
            replayer=Replayer(connection, resources.publisher, metrics, replayed),
            dropped_letters=partial(dropped_letters, dead_letters, replayed),
            analysis=AnalysisView(resources.redis),
            backtests=Backtests(resources.database.url, influx=settings.influx.settings),
            default_rule=settings.analysis.default_rule.rule_of,
            delete_organization=remover.delete,
            delete_device=device_remover(resources).delete,
            limits=settings.limits,
            limit_books=limit_books,
            queries=await open_queries(
                settings.influx.settings, resources.database, settings.query.connections, metrics, stack
            ),
            query_slots=QuerySlots(settings.query.per_organization),
            query_limits=settings.query,
            vault=sending.vault,
            destinations=sending.destinations,
            channels=sending.channels,
            test_turns=TestTurns(),
            live=LiveStreams(connection, settings.live),
        )
        _add_management(made, settings, resources, context, metrics)
    return made


def _add_management(
    made: Assembly, settings: Settings, resources: Resources, context: ManagementContext, metrics: Metrics
) -> None:
    role = ManagementRole(resources.database, context.live)
    resources.changes.register(role.changed)
    made.roles.append(role)
    made.endings.append(context.live.end)
    made.apps["management"] = management_app(routes(context), host_rules(settings, settings.management.host), metrics)


async def _limit_books(settings: Settings, resources: Resources) -> LimitBooks:
    books = LimitBooks(resources.database, settings.limits)
    await books.load()
    resources.changes.register(books.apply)
    return books


async def _setup_token(settings: Settings, resources: Resources) -> str | None:
    """Where credentials are needed and nobody has any: what makes the first administrator, until the next start."""
    if not settings.auth_required or await any_administrator(resources.database):
        return None
    return SETUP_TOKEN_PREFIX + secrets.token_urlsafe(24)


def _entrance(
    settings: Settings,
    resources: Resources,
    authenticator: Authenticator,
    keys: SigningKeys,
    setup_token: str | None,
) -> Entrance:
    return Entrance(
        authenticator,
        UserTokens(keys),
        PasswordHasher(),
        Guesses(TokenLeases(resources.redis, "iot-guesses")),
        required=settings.auth_required,
        setup_token=setup_token,
    )


async def _signing_keys(settings: Settings, data: DataDirectory, resources: Resources) -> SigningKeys:
    """The public halves go to PostgreSQL, where every process that verifies finds them."""
    keys = configured_keys(settings) or _load_keys(data.secret("signing_keys.pem", SigningKeys.make_pem))
    await register_keys(resources.database, keys.public_pems)
    return keys


def configured_keys(settings: Settings) -> SigningKeys | None:
    """The keys that the settings give; None when they leave that to us.

    Raises:
        ConfigError: one can't sign device tokens.
    """
    return _load_keys(settings.auth.signing_keys) if settings.auth.signing_keys else None


def _load_keys(text: str) -> SigningKeys:
    end = "-----END PRIVATE KEY-----"
    return SigningKeys.load([f"{part.strip()}\n{end}\n" for part in text.split(end) if part.strip()])


def host_rules(settings: Settings, listening_at: str) -> HostRules:
    """With credentials needed, a page that calls us by another name has none: nothing is checked."""
    return HostRules(
        allowed_hosts(settings), addresses=not is_loopback(listening_at), checked=not settings.auth_required
    )


def operations_rules(settings: Settings) -> HostRules:
    """There are no credentials on that port, whatever the mode. Beyond loopback it is called as others know it."""
    return HostRules(allowed_hosts(settings), checked=is_loopback(settings.operations.host))


def allowed_hosts(settings: Settings) -> list[str]:
    """Names of this machine that requests may use in open mode, beside loopback and plain addresses."""
    return [*settings.auth.allowed_hosts, settings.ingest.host, settings.management.host]

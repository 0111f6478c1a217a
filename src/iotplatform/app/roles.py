"""Which role needs what: the one place where roles meet adapters."""

from __future__ import annotations

from contextlib import AsyncExitStack
from typing import Any, Protocol

import msgspec

from iotplatform.adapters.embedded import DataDirectory
from iotplatform.adapters.nats.backlog import BacklogCounter
from iotplatform.adapters.nats.dead_letters import DeadLetters
from iotplatform.adapters.nats.readers import Readers
from iotplatform.adapters.nats.shares import SharedReaders
from iotplatform.adapters.nats.trimming import Trimmer
from iotplatform.adapters.postgres.alarm_history import AlarmHistory
from iotplatform.adapters.postgres.ledger import Ledger
from iotplatform.adapters.postgres.persistence import ReadingStore
from iotplatform.adapters.postgres.tokens import register_keys
from iotplatform.adapters.redis.analysis import AnalysisStore
from iotplatform.adapters.redis.latest import LatestValues
from iotplatform.adapters.tokens.device_tokens import DeviceTokens
from iotplatform.adapters.tokens.keys import SigningKeys
from iotplatform.adapters.tokens.verifier import Verifier
from iotplatform.app.http.apps import ingest_app, management_app
from iotplatform.app.ledger import LedgerReader
from iotplatform.app.members import membership_of
from iotplatform.app.resources import Resources
from iotplatform.app.settings import RoleName, Settings, is_loopback
from iotplatform.observability.metrics import Metrics
from iotplatform.roles.analysis.role import AnalysisRole
from iotplatform.roles.ingest.role import IngestRole
from iotplatform.roles.management.context import ManagementContext
from iotplatform.roles.management.routes import routes
from iotplatform.roles.notification.role import NotificationRole
from iotplatform.roles.persistence.alarms import AlarmWriter
from iotplatform.roles.persistence.readings import ReadingWriter
from iotplatform.roles.persistence.role import PersistenceRole


class Role(Protocol):
    """`start` returns when the role works, `wait` raises when one of its tasks has died, `stop` drains."""

    name: str

    async def start(self) -> None: ...

    async def wait(self) -> None: ...

    async def stop(self) -> None: ...


class Assembly(msgspec.Struct):
    """The roles of this process, the applications they bring, and the readers whose lag and shares are shown."""

    roles: list[Role] = msgspec.field(default_factory=list)
    apps: dict[str, Any] = msgspec.field(default_factory=dict)
    readers: list[Readers] = msgspec.field(default_factory=list)
    shares: list[SharedReaders] = msgspec.field(default_factory=list)


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
    dead_letters = DeadLetters(connection, resources.publisher)
    verifier = Verifier(directory.public_key, directory.token_is_live)
    latest = LatestValues(resources.redis)
    hosts = allowed_hosts(settings)

    if "persistence" in names:
        assert resources.urls.postgres is not None  # noqa: S101 - known since the database is open
        store = await ReadingStore.open(resources.urls.postgres)
        stack.push_async_callback(store.close)
        membership = membership_of("persistence", resources, data)
        writer = ReadingWriter(connection, dead_letters, store, latest, directory, metrics, membership)
        alarms = AlarmWriter(connection, dead_letters, AlarmHistory(resources.database), metrics, membership)
        trimmer = Trimmer(connection, settings.streams.keep_s)
        made.roles.append(PersistenceRole(writer, alarms, trimmer, directory, membership))
        made.readers += [writer.readers, alarms.readers]
        made.shares.append(writer.partitions)
    if "notification" in names:
        membership = membership_of("notification", resources, data)
        notification = NotificationRole(
            connection, resources.database, dead_letters, settings.mail_settings, metrics, membership
        )
        made.roles.append(notification)
        made.readers.append(notification.readers)
        made.shares.append(notification.notifications)
    if "analysis" in names:
        analysis = AnalysisRole(
            connection,
            resources.publisher,
            AnalysisStore(resources.redis),
            resources.counters,
            directory,
            metrics,
            membership_of("analysis", resources, data),
        )
        made.roles.append(analysis)
        made.readers.append(analysis.readers)
        made.shares.append(analysis.partitions)
    if "ingest" in names:
        ingest = IngestRole(resources.publisher, directory, verifier, resources.counters, metrics)
        made.roles.append(ingest)
        made.apps["ingest"] = ingest_app(ingest.endpoint, hosts, addresses=not is_loopback(settings.ingest.host))
    if "management" in names:
        keys = await _signing_keys(settings, data, resources)
        ledger = LedgerReader(Ledger(resources.database), BacklogCounter(connection), resources.counters)
        context = ManagementContext(
            database=resources.database,
            directory=directory,
            tokens=DeviceTokens(keys),
            verifier=verifier,
            streams=resources.streams,
            latest=latest,
            ledger=ledger.read,
            dead_letters=dead_letters,
            default_rule=settings.analysis.default_rule.rule_of,
        )
        made.apps["management"] = management_app(
            routes(context), hosts, addresses=not is_loopback(settings.management.host)
        )
    return made


async def _signing_keys(settings: Settings, data: DataDirectory, resources: Resources) -> SigningKeys:
    """The public halves go to PostgreSQL, where every process that verifies finds them."""
    text = settings.auth.signing_keys or data.secret("signing_keys.pem", SigningKeys.make_pem)
    end = "-----END PRIVATE KEY-----"
    pems = [f"{part.strip()}\n{end}\n" for part in text.split(end) if part.strip()]
    keys = SigningKeys.load(pems)
    await register_keys(resources.database, keys.public_pems)
    return keys


def allowed_hosts(settings: Settings) -> list[str]:
    """Names of this machine that requests may use in open mode, beside loopback and plain addresses."""
    return [*settings.auth.allowed_hosts, settings.ingest.host, settings.management.host]

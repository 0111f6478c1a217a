"""The ingest role with its doors: HTTP, MQTT and NATS."""

from __future__ import annotations

from iotplatform.adapters.embedded import DataDirectory
from iotplatform.adapters.nats.connection import Connection
from iotplatform.adapters.nats.dead_letters import DeadLetters
from iotplatform.adapters.postgres.command_delivery import CommandDelivery
from iotplatform.adapters.postgres.ingestion import IngestionRoll
from iotplatform.adapters.postgres.limits import LimitBooks
from iotplatform.adapters.postgres.presence import Presence
from iotplatform.adapters.redis.leases import TokenLeases
from iotplatform.adapters.tokens.authenticator import Authenticator
from iotplatform.app.members import membership_of
from iotplatform.app.resources import Resources
from iotplatform.app.settings import Settings
from iotplatform.observability.metrics import Metrics
from iotplatform.roles.ingest.admission import Admission
from iotplatform.roles.ingest.door_parts import DoorParts
from iotplatform.roles.ingest.presence import IngestionPresence
from iotplatform.roles.ingest.registry import Registry
from iotplatform.roles.ingest.role import Callout, IngestRole
from iotplatform.roles.ingest.senders import Senders


def ingest_role(
    settings: Settings,
    resources: Resources,
    data: DataDirectory,
    metrics: Metrics,
    limit_books: LimitBooks,
    authenticator: Authenticator,
) -> IngestRole:
    registry = Registry(resources.database, registers_unknown=not settings.auth_required)
    resources.changes.register(registry.apply)
    parts = DoorParts(
        connection=resources.connection,
        publisher=resources.publisher,
        admission=Admission(TokenLeases(resources.redis), limit_books, metrics),
        directory=resources.directory,
        dead_letters=DeadLetters(resources.connection, resources.publisher, resources.streams),
        counters=resources.counters,
        metrics=metrics,
        registry=registry,
        presence=Presence(resources.database),
        commands=CommandDelivery(resources.database),
    )
    membership = membership_of("ingest", resources, data)
    presence = IngestionPresence(resources.connection, IngestionRoll(resources.database))
    senders = Senders(authenticator, resources.directory, required=settings.auth_required)
    role = IngestRole(parts, senders, authenticator, membership, presence, _callout(settings, resources, metrics))
    if role.watch is not None:
        resources.changes.register(role.watch.changed)
    return role


def _callout(settings: Settings, resources: Resources, metrics: Metrics) -> Callout | None:
    keys, url = resources.callout, resources.urls.nats
    if keys is None or url is None:
        return None
    # What only follows from a URL may be nothing that its server knows.
    is_guess = settings.nats.url is not None and settings.nats.callout_seed is None
    tls = settings.nats.tls
    connection = Connection(
        url, metrics, name="iotplatform callout", nkey_seed=keys.auth_seed, is_guess=is_guess, tls=tls
    )
    system = Connection(url, metrics, name="iotplatform watch", nkey_seed=keys.system_seed, is_guess=is_guess, tls=tls)
    return Callout(keys, connection, system, is_open=not settings.auth_required)

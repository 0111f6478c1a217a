"""The persistence role, with the care of everything that it stores."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from functools import partial

from iotplatform.adapters.embedded import DataDirectory
from iotplatform.adapters.nats.controls import Controls
from iotplatform.adapters.nats.dead_letters import DeadLetters
from iotplatform.adapters.nats.removal import EpochRemover
from iotplatform.adapters.nats.trimming import Trimmer
from iotplatform.adapters.postgres.alarm_history import AlarmHistory
from iotplatform.adapters.postgres.audit import prune as prune_audit
from iotplatform.adapters.postgres.frozen import end_frozen_sessions
from iotplatform.adapters.postgres.gaps import Gaps
from iotplatform.adapters.postgres.lanes import fold_lanes
from iotplatform.adapters.postgres.limits import own_stream_sizes
from iotplatform.adapters.postgres.partition_tries import PartitionTries
from iotplatform.adapters.postgres.retention import shortest_retention_s
from iotplatform.adapters.postgres.rollups import Rollups
from iotplatform.adapters.redis.latest import LatestValues
from iotplatform.app.device_removal import DeviceRemover
from iotplatform.app.ledger import LedgerReader
from iotplatform.app.members import membership_of
from iotplatform.app.removal import OrganizationRemover
from iotplatform.app.resources import Resources
from iotplatform.app.settings import Settings
from iotplatform.app.telemetry import open_block_store
from iotplatform.observability.metrics import Metrics
from iotplatform.roles.persistence.alarms import AlarmWriter
from iotplatform.roles.persistence.history_care import HistoryCare
from iotplatform.roles.persistence.ledger_audit import LedgerAudit
from iotplatform.roles.persistence.maintenance import Duties, Maintenance, Writers
from iotplatform.roles.persistence.readings import ReadingParts, ReadingWriter
from iotplatform.roles.persistence.role import PersistenceRole
from iotplatform.roles.persistence.rollup_care import RollupCare
from iotplatform.roles.persistence.stream_care import StreamCare
from iotplatform.roles.persistence.suspects import Suspects


async def persistence_role(
    settings: Settings,
    resources: Resources,
    data: DataDirectory,
    metrics: Metrics,
    stack: AsyncExitStack,
    one_suspect: asyncio.Lock,
) -> PersistenceRole:
    url = resources.urls.postgres
    assert url is not None  # noqa: S101 - known since the database is open
    connection = resources.connection
    dead_letters = DeadLetters(connection, resources.publisher, resources.streams)
    membership = membership_of("persistence", resources, data)
    parts = ReadingParts(
        connection,
        dead_letters,
        await open_block_store(url, resources.telemetry, metrics, stack),
        resources.telemetry.store,
        LatestValues(resources.redis),
        resources.directory,
        Suspects(PartitionTries(resources.database), one_suspect),
    )
    writers = Writers(
        ReadingWriter(parts, metrics, membership),
        AlarmWriter(connection, dead_letters, AlarmHistory(resources.database), metrics, membership),
    )

    def is_ours() -> bool:
        return writers.alarms.is_holder

    history = HistoryCare(url, is_ours, metrics, resources.telemetry.sink, settings.retention.every_s)
    # Of readings that are in PostgreSQL.
    rollups = RollupCare(Rollups(resources.database), is_ours) if settings.influx.url is None else None
    return PersistenceRole(
        writers.readings,
        writers.alarms,
        _maintenance(settings, resources, metrics, writers),
        rollups,
        history,
        membership,
        partial(end_frozen_sessions, resources.database),
    )


def _maintenance(settings: Settings, resources: Resources, metrics: Metrics, writers: Writers) -> Maintenance:
    database, connection, directory = resources.database, resources.connection, resources.directory
    ledger = LedgerReader(database, connection, resources.counters)
    remover = OrganizationRemover(database, connection, resources.redis, directory, resources.telemetry.all)
    streams = StreamCare(
        Trimmer(connection, settings.streams.keep_s),
        EpochRemover(connection),
        Gaps(database),
        ledger.look_for_vanished,
        partial(own_stream_sizes, database),
        resources.streams.resize_organization,
        partial(shortest_retention_s, database),
    )
    devices = device_remover(resources)
    duties = Duties(
        lambda: fold_lanes(database),
        lambda: _finish(remover, "organization", metrics),
        lambda: _finish(devices, "device", metrics),
        remover.remove_orphans,
        lambda: prune_audit(database, settings.audit.keep_s),
    )
    return Maintenance(writers, streams, LedgerAudit(ledger.read, directory, metrics), duties, directory)


async def _finish(remover: OrganizationRemover | DeviceRemover, kind: str, metrics: Metrics) -> None:
    try:
        await remover.finish()
    finally:
        metrics.removals_left.values[kind,] = remover.left


def device_remover(resources: Resources) -> DeviceRemover:
    return DeviceRemover(
        resources.database,
        resources.streams,
        Controls(resources.publisher),
        LatestValues(resources.redis),
        resources.directory,
        resources.telemetry.all,
    )

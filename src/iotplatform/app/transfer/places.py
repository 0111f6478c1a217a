"""What export and import work on: the servers of the settings, or those of the platform that runs here."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

import msgspec

from iotplatform.adapters.nats.api import JetStreamApi
from iotplatform.adapters.nats.connection import Connection
from iotplatform.adapters.nats.streams import Streams
from iotplatform.adapters.postgres.connection import Database
from iotplatform.adapters.postgres.directory import Directory
from iotplatform.adapters.postgres.migrations import at_head
from iotplatform.adapters.postgres.persistence import ReadingStore
from iotplatform.adapters.redis.connection import RedisConnection
from iotplatform.adapters.redis.latest import LatestValues
from iotplatform.app.resources import stream_limits
from iotplatform.app.runtime_file import read_runtime_file
from iotplatform.app.settings import Settings
from iotplatform.app.telemetry import Telemetry, open_telemetry
from iotplatform.errors import ConfigError, Unavailable
from iotplatform.observability.metrics import Metrics
from iotplatform.runtime.tasks import Tasks

CONNECTED_WITHIN_S = 5.0
STOP_S = 5.0


class Source(msgspec.Struct, frozen=True):
    database: Database
    directory: Directory
    telemetry: Telemetry


class Target(Source, frozen=True):
    streams: Streams
    readings: ReadingStore
    latest: LatestValues


@asynccontextmanager
async def open_source(settings: Settings) -> AsyncIterator[Source]:
    """Raises:
    Unavailable: a server is away.
    """
    postgres, _, _ = await asyncio.to_thread(_urls, settings)
    async with AsyncExitStack() as stack:
        yield await _open_source(settings, postgres, stack)


@asynccontextmanager
async def open_target(settings: Settings) -> AsyncIterator[Target]:
    """Raises:
    Unavailable: a server is away.
    """
    postgres, nats, redis_url = await asyncio.to_thread(_urls, settings)
    async with AsyncExitStack() as stack:
        source = await _open_source(settings, postgres, stack)
        redis = RedisConnection(redis_url)
        stack.push_async_callback(redis.close)
        await redis.ping()
        readings = await ReadingStore.open(postgres)
        stack.push_async_callback(readings.close)
        connection = Connection(nats, Metrics(), name="iotplatform import", tls=settings.nats.tls)
        tasks = Tasks("import")
        stack.push_async_callback(tasks.stop, STOP_S)
        tasks.start(connection.run(), "nats")
        if not await connection.wait_connected(CONNECTED_WITHIN_S):
            raise Unavailable("NATS is not reachable")
        streams = Streams(JetStreamApi(connection), stream_limits(settings))
        yield Target(source.database, source.directory, source.telemetry, streams, readings, LatestValues(redis))


async def _open_source(settings: Settings, postgres: str, stack: AsyncExitStack) -> Source:
    database = await Database.open(postgres, pool_size=4)
    stack.push_async_callback(database.close)
    if not await at_head(postgres):
        raise ConfigError("the database is not at this version's schema: run `iotplatform migrate` first")
    directory = Directory(database)
    await directory.load()
    return Source(database, directory, await open_telemetry(settings.influx.settings, database, directory, stack))


def _urls(settings: Settings) -> tuple[str, str, str]:
    running = read_runtime_file(settings.data_path)
    postgres = settings.postgres.url or (running.postgres if running else None)
    nats = settings.nats.url or (running.nats if running else None)
    redis = settings.redis.url or (running.redis if running else None)
    if nats is None or postgres is None or redis is None:
        raise Unavailable(
            f"no platform runs on {settings.data_path}: start one (`make run`), name its --data-dir, or set nats.url, "
            "postgres.url and redis.url"
        )
    return postgres, nats, redis

"""What roles stand on, made in dependency order and closed in reverse: servers, connections, the directory."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from typing import Final, TypeVar

import msgspec
import structlog

from iotplatform.adapters.embedded import CalloutUsers, DataDirectory, EmbeddedServers, ServerUrls, platform_password
from iotplatform.adapters.nats.api import JetStreamApi
from iotplatform.adapters.nats.callout_keys import CalloutKeys
from iotplatform.adapters.nats.connection import Connection
from iotplatform.adapters.nats.publisher import Publisher
from iotplatform.adapters.nats.streams import StreamLimits, Streams
from iotplatform.adapters.postgres.changes import ChangeFeed
from iotplatform.adapters.postgres.connection import Database
from iotplatform.adapters.postgres.directory import Directory
from iotplatform.adapters.postgres.migrations import at_head, migrate
from iotplatform.adapters.redis.connection import RedisConnection
from iotplatform.adapters.redis.counters import Counters
from iotplatform.app.settings import Settings
from iotplatform.app.telemetry import Telemetry, open_telemetry
from iotplatform.errors import ConfigError, Unavailable
from iotplatform.observability.metrics import Metrics
from iotplatform.runtime.backoff import Backoff
from iotplatform.runtime.tasks import Tasks

log = structlog.get_logger()

REACHED_WITHIN_S: Final = 60.0
STOP_S: Final = 5.0

T = TypeVar("T")


class Resources(msgspec.Struct, frozen=True):
    urls: ServerUrls
    database: Database
    redis: RedisConnection
    counters: Counters
    connection: Connection
    publisher: Publisher
    streams: Streams
    directory: Directory
    changes: ChangeFeed
    embedded: EmbeddedServers | None
    telemetry: Telemetry
    # None: nats-server does not ask us who a client is.
    callout: CalloutKeys | None = None


def callout_keys(settings: Settings, data: DataDirectory) -> CalloutKeys | None:
    """Those of the settings, or what follows from the password of the platform's user.

    A nats-server that is given may not ask at all; then nobody is ever connected with what follows from its URL.

    Raises:
        ConfigError: the seed in the settings is none.
    """
    if settings.nats.callout_seed is not None:
        return CalloutKeys.load(settings.nats.callout_seed)
    if settings.nats.url is not None:
        return CalloutKeys.of_url(settings.nats.url)
    return CalloutKeys.derive(platform_password(data))


def stream_limits(settings: Settings) -> StreamLimits:
    return StreamLimits(
        replicas=settings.nats.replicas,
        organization_max_bytes=settings.streams.max_bytes,
        dead_letters_max_bytes=settings.streams.dead_letters_max_bytes,
    )


async def start_servers(
    settings: Settings, data: DataDirectory, stack: AsyncExitStack
) -> tuple[ServerUrls, EmbeddedServers | None]:
    """The embedded servers for what has no URL, and the URLs of everything."""
    nats, postgres, redis = settings.nats.url, settings.postgres.url, settings.redis.url
    if nats and postgres and redis:
        return ServerUrls(nats, None, postgres, redis), None
    keys = await asyncio.to_thread(callout_keys, settings, data)
    embedded = EmbeddedServers(
        data,
        settings.embedded_settings,
        nats=nats is None,
        postgres=postgres is None,
        redis=redis is None,
        callout=CalloutUsers(keys.issuer, keys.auth_user, keys.system_user) if keys else None,
    )
    urls = await embedded.start()
    stack.push_async_callback(embedded.stop)
    given = {"nats": nats, "postgres": postgres, "redis": redis}
    return msgspec.structs.replace(urls, **{name: url for name, url in given.items() if url}), embedded


async def open_resources(
    settings: Settings, data: DataDirectory, metrics: Metrics, stack: AsyncExitStack, tasks: Tasks
) -> Resources:
    """Everything, ready to be used; `tasks` owns what keeps it so.

    Raises:
        ConfigError: a server can't be started, or the database is not migrated.
        Unavailable: a server does not answer.
    """
    urls, embedded = await start_servers(settings, data, stack)
    if embedded is not None:
        tasks.start(embedded.run(), "embedded")
    assert urls.nats is not None  # noqa: S101 - either given or embedded
    assert urls.postgres is not None  # noqa: S101
    assert urls.redis is not None  # noqa: S101
    # From here on, a task that was started is stopped before what it uses is closed.
    stack.push_async_callback(tasks.stop, STOP_S)

    if settings.nats.tls is not None:
        # Files that can't be used end the start; later ones are told of, and tried again.
        await asyncio.to_thread(settings.nats.tls.context)
    connection = Connection(urls.nats, metrics, tls=settings.nats.tls)
    publisher = Publisher(connection)
    await publisher.start()
    tasks.start(connection.run(), "nats")
    redis = RedisConnection(urls.redis)
    stack.push_async_callback(redis.close)
    counters = Counters(redis)
    streams = Streams(JetStreamApi(connection), stream_limits(settings))

    database, _, _ = await asyncio.gather(
        _open_database(urls.postgres, embedded=settings.postgres.url is None),
        _reach("redis.url", redis.ping),
        _reach("nats.url", streams.create_shared),
    )
    stack.push_async_callback(database.close)

    directory = Directory(database)
    await directory.load()
    feed = ChangeFeed(urls.postgres)
    feed.register(directory.apply)
    tasks.start(feed.run(), "changes")
    tasks.start(counters.run(), "counters")
    keys = await asyncio.to_thread(callout_keys, settings, data)
    telemetry = await open_telemetry(settings.influx.settings, database, directory, stack)
    return Resources(
        urls,
        database,
        redis,
        counters,
        connection,
        publisher,
        streams,
        directory,
        feed,
        embedded,
        telemetry,
        keys,
    )


async def _open_database(url: str, *, embedded: bool) -> Database:
    database = await _reach("postgres.url", lambda: Database.open(url))
    if not await at_head(url):
        if not embedded:
            await database.close()
            raise ConfigError(
                "postgres.url: the database is not at this version's schema: run `iotplatform migrate` first"
            )
        await migrate(url)
    return database


async def _reach(setting: str, attempt: Callable[[], Awaitable[T]]) -> T:
    """A server may still be starting, or come up after us: try for a while."""
    backoff = Backoff(0.02, 2.0)
    until = time.monotonic() + REACHED_WITHIN_S
    while True:
        try:
            return await attempt()
        except Unavailable as error:
            if time.monotonic() > until:
                raise Unavailable(f"{setting}: not reachable within {REACHED_WITHIN_S:g} s: {error.detail}") from error
            log.debug("server.waiting", setting=setting, detail=error.detail)
            await backoff.wait()

"""Which telemetry store is in use: PostgreSQL, or InfluxDB where the settings name one."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from importlib import import_module

import structlog

from iotplatform.adapters.influx.settings import InfluxSettings
from iotplatform.adapters.postgres.connection import Database
from iotplatform.adapters.postgres.directory import Directory
from iotplatform.adapters.postgres.persistence import ReadingStore
from iotplatform.adapters.postgres.series import page
from iotplatform.adapters.postgres.telemetry import PostgresTelemetry
from iotplatform.adapters.postgres.telemetry_queries import TelemetryQueries
from iotplatform.domain.querying.store import QueryStore
from iotplatform.domain.telemetry import SeriesKey, TelemetryStore
from iotplatform.errors import Unavailable
from iotplatform.observability.metrics import Metrics
from iotplatform.roles.persistence.stores import BlockStore, OutsideStore, ReadingSink

log = structlog.get_logger()


class Telemetry:
    """`store` is read from; `all` may hold readings, because there was another before; `sink` takes them instead of
    PostgreSQL.
    """

    def __init__(self, store: TelemetryStore, before: tuple[TelemetryStore, ...], sink: ReadingSink | None) -> None:
        self.store = store
        self.all = (store, *before)
        self.sink = sink


async def open_telemetry(
    influx: InfluxSettings | None, database: Database, directory: Directory, stack: AsyncExitStack
) -> Telemetry:
    """An InfluxDB that is away is no reason not to start: its readings wait in the stream."""
    postgres = PostgresTelemetry(database)
    if influx is None:
        return Telemetry(postgres, (), None)
    # The driver takes half a second to import, and hardly anybody needs it.
    driver = await asyncio.to_thread(import_module, "iotplatform.adapters.influx.client")
    client = await driver.InfluxClient.open(influx)
    stack.push_async_callback(client.close)
    stores = import_module("iotplatform.adapters.influx.telemetry")
    store = stores.InfluxTelemetry(
        client, series_of(database), names_of(directory), deletes_by_query=influx.api == "v1"
    )
    try:
        await client.ping()
    except Unavailable as error:
        log.warning("influx.waiting", detail=error.detail)
    return Telemetry(store, (postgres,), store)


async def open_queries(
    influx: InfluxSettings | None, database: Database, connections: int, metrics: Metrics, stack: AsyncExitStack
) -> QueryStore:
    """On connections of their own: heavy queries don't delay what is stored."""
    if influx is None:
        queries = await TelemetryQueries.open(database.url, connections)
        stack.callback(queries.close)
        metrics.watch_pool("postgres_queries", queries.pool_state)
        return queries
    driver = await asyncio.to_thread(import_module, "iotplatform.adapters.influx.client")
    client = await driver.InfluxClient.open(influx, connections, timeout_s=None)
    stack.push_async_callback(client.close)
    store: QueryStore = import_module("iotplatform.adapters.influx.queries").InfluxQueries(client, series_of(database))
    return store


async def open_block_store(url: str, telemetry: Telemetry, metrics: Metrics, stack: AsyncExitStack) -> BlockStore:
    """What persistence commits to: positions and counts are PostgreSQL's, wherever the readings go."""
    ledger = await ReadingStore.open(url)
    metrics.watch_pool("postgres_readings", ledger.pool_state)
    stack.push_async_callback(ledger.close)
    return OutsideStore(telemetry.sink, ledger) if telemetry.sink else ledger


def series_of(database: Database) -> Callable[[int, int, SeriesKey, tuple[str, ...]], Awaitable[list[SeriesKey]]]:
    async def series(epoch: int, limit: int, after: SeriesKey, device_ids: tuple[str, ...]) -> list[SeriesKey]:
        return [(one.device_id, one.sensor) for one in await page(database, epoch, limit, after, device_ids)]

    return series


def names_of(directory: Directory) -> Callable[[int], str | None]:
    """An epoch is one organization's for good."""
    known: dict[int, str] = {}

    def name_of(epoch: int) -> str | None:
        if epoch not in known:
            known.update((organization.epoch, organization.id) for organization in directory.organizations())
        return known.get(epoch)

    return name_of

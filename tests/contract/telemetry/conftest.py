"""Both stores, each as persistence and management use it."""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass, field

import pytest

from iotplatform.adapters.influx.settings import InfluxSettings
from iotplatform.adapters.postgres.connection import Database
from iotplatform.adapters.postgres.directory import Directory
from iotplatform.adapters.postgres.persistence import PartitionWork, ReadingStore
from iotplatform.app.telemetry import open_queries, open_telemetry
from iotplatform.domain.querying.store import QueryStore
from iotplatform.domain.reading import Reading, Value
from iotplatform.domain.telemetry import Entry, TelemetryRange, TelemetryStore
from iotplatform.observability.metrics import Metrics
from iotplatform.roles.persistence.stores import BlockStore, OutsideStore
from tests.support.influx import open_influx


@dataclass
class Stand:
    """A telemetry store, and what commits into it."""

    kind: str
    store: TelemetryStore
    blocks: BlockStore
    database: Database
    directory: Directory
    queries: QueryStore
    influx: InfluxSettings | None = None
    positions: dict[int, int] = field(default_factory=dict)

    async def make(self) -> int:
        """An organization's epoch."""
        epoch = await self.database.pool.fetchval(
            "INSERT INTO organizations (id, name, partitions) VALUES ($1, 'x', 1) RETURNING epoch", uuid.uuid4().hex
        )
        await self.database.pool.execute("INSERT INTO partitions (epoch, number) VALUES ($1, 0)", epoch)
        await self.directory.load()
        self.positions[epoch] = 0
        return int(epoch)

    async def put(self, epoch: int, entries: list[Entry]) -> PartitionWork:
        """As one commit."""
        before = self.positions[epoch]
        after = max([before, *(position for _, position in entries)]) + 1
        work = PartitionWork(epoch, 0, before, after, readings=entries)
        await self.blocks.store([work])
        self.positions[epoch] = after
        return work

    async def all(self, epoch: int, limit: int = 1_000, **wanted: object) -> list[Reading]:
        """Every page of a range."""
        found: list[Reading] = []
        after = None
        while page := await self.store.page(epoch, limit, after, TelemetryRange(**wanted)):  # type: ignore[arg-type]
            assert len(page) <= limit
            found += page
            after = (page[-1].device_id, page[-1].sensor, page[-1].at)
        return found

    async def values(self, epoch: int) -> dict[tuple[str, str, int], Value]:
        return {(one.device_id, one.sensor, one.at): one.value for one in await self.all(epoch)}


@pytest.fixture(scope="session", params=["postgres", "influx"])
async def stand(request, database_url: str, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Stand]:
    async with AsyncExitStack() as stack:
        settings = None
        if request.param == "influx":
            settings = await open_influx(tmp_path_factory.mktemp("influx"), stack)
        database = await Database.open(database_url)
        stack.push_async_callback(database.close)
        ledger = await ReadingStore.open(database_url)
        stack.push_async_callback(ledger.close)
        directory = Directory(database)
        telemetry = await open_telemetry(settings, database, directory, stack)
        blocks = OutsideStore(telemetry.sink, ledger) if telemetry.sink else ledger
        queries = await open_queries(settings, database, 4, Metrics(), stack)
        yield Stand(request.param, telemetry.store, blocks, database, directory, queries, settings)

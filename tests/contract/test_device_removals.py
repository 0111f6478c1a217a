"""What a deleted device has sent goes, also what is stored late; what its successor sends stays."""

from __future__ import annotations

import datetime as dt
import uuid
from collections.abc import AsyncIterator
from types import SimpleNamespace
from typing import Any

import pytest

from iotplatform.adapters.embedded import ServerUrls
from iotplatform.adapters.postgres.connection import Database
from iotplatform.adapters.postgres.telemetry import PostgresTelemetry
from iotplatform.adapters.redis.connection import RedisConnection
from iotplatform.adapters.redis.latest import LatestValues
from iotplatform.app import device_removal
from iotplatform.app.device_removal import DeviceRemover
from iotplatform.domain.control import Control, ForgetDevice
from iotplatform.domain.organization import Organization


class Stand:
    """A device, and readings written as persistence would write them."""

    def __init__(self, database: Database, latest: LatestValues, organization: Organization) -> None:
        self.pool = database.pool
        self.latest = latest
        self.organization = organization
        self.last = 0

        async def last_position(_: str) -> int:
            return self.last

        async def apply(_: Any) -> None: ...

        async def known(_: str) -> Organization:
            return organization

        async def publish(_: Organization, control: Control) -> None:
            self.told.append(control)

        self.told: list[Control] = []
        self.remover = DeviceRemover(
            database,
            SimpleNamespace(last_position=last_position),  # type: ignore[arg-type]
            SimpleNamespace(publish=publish),  # type: ignore[arg-type]
            latest,
            SimpleNamespace(apply=apply, organization=known),  # type: ignore[arg-type]
            [PostgresTelemetry(database)],
        )

    async def register(self) -> None:
        await self.pool.execute(
            "INSERT INTO devices (epoch, id, name) VALUES ($1, 'oven', 'Oven')", self.organization.epoch
        )

    async def store(self, position: int, device: str = "oven") -> None:
        epoch = self.organization.epoch
        series = await self.pool.fetchval(
            "INSERT INTO series (epoch, device_id, sensor) VALUES ($1, $2, 's')"
            " ON CONFLICT (epoch, device_id, sensor) DO UPDATE SET sensor = 's' RETURNING id",
            epoch,
            device,
        )
        at = dt.datetime(2026, 1, 1, tzinfo=dt.UTC) + dt.timedelta(seconds=position)
        await self.pool.execute(
            "INSERT INTO readings (series_id, kind, at, value, position) VALUES ($1, 0, $2, 1.0, $3)",
            series,
            at,
            position,
        )
        await self.pool.execute("UPDATE partitions SET position = $2 WHERE epoch = $1", epoch, position)
        await self.latest.keep({epoch: {(device, "s"): (position, position, 1.0)}})
        self.last = max(self.last, position)

    async def delete(self) -> bool:
        return await self.remover.delete(self.organization, "oven", lambda _: None, "ann")

    async def left(self, device: str = "oven") -> list[int]:
        rows = await self.pool.fetch(
            "SELECT position FROM readings JOIN series ON series.id = series_id WHERE epoch = $1 AND device_id = $2"
            " ORDER BY position",
            self.organization.epoch,
            device,
        )
        return [row["position"] for row in rows]

    async def latest_position(self) -> int | None:
        await self.latest.mark_complete(
            self.organization.epoch, await self.latest.incomplete_since(self.organization.epoch, 1)
        )
        found = await self.latest.page(self.organization.epoch, ["oven"], None, 10)
        return found[0][3] if found else None

    async def pending(self) -> int:
        count = await self.pool.fetchval(
            "SELECT count(*) FROM device_removals WHERE epoch = $1", self.organization.epoch
        )
        return int(count)


@pytest.fixture
async def stand(database_url: str, servers: ServerUrls, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Stand]:
    monkeypatch.setattr(device_removal, "LATE_WRITERS_S", 0.0)
    database = await Database.open(database_url)
    assert servers.redis is not None
    redis = RedisConnection(servers.redis)
    name = f"org-{uuid.uuid4().hex}"
    epoch = await database.pool.fetchval(
        "INSERT INTO organizations (id, name, partitions) VALUES ($1, 'A', 1) RETURNING epoch", name
    )
    await database.pool.execute("INSERT INTO partitions (epoch, number) VALUES ($1, 0)", epoch)
    made = Stand(database, LatestValues(redis), Organization(name, epoch, "A", 1, 0))
    await made.register()
    yield made
    await redis.close()
    await database.close()


async def test_what_was_stored_goes_at_once(stand: Stand) -> None:
    for position in (1, 2):
        await stand.store(position)
        await stand.store(position + 10, "other")
    assert await stand.latest_position() == 2
    assert await stand.delete()
    assert await stand.left() == []
    assert await stand.latest_position() is None
    assert await stand.left("other") == [11, 12]
    assert not await stand.delete()
    await stand.remover.finish()
    assert await stand.pending() == 0


async def test_what_is_stored_late_goes_as_well(stand: Stand) -> None:
    await stand.store(1)
    # Three blocks are in the stream, and persistence has the first of them.
    stand.last = 3
    assert await stand.delete()
    await stand.remover.finish()
    assert await stand.pending() == 1
    left = stand.remover.left
    assert left >= 1
    await stand.store(2)
    await stand.store(3)
    await stand.remover.finish()
    assert stand.remover.left == left - 1
    assert await stand.left() == []
    assert await stand.latest_position() is None
    assert await stand.pending() == 0


async def test_what_was_heard_after_its_end_goes_unless_it_was_made_again(stand: Stand) -> None:
    await stand.store(1)
    assert await stand.delete()
    # By a process that did not know yet.
    await stand.store(2)
    await stand.remover.finish()
    assert await stand.left() == []
    # Later ones come from somebody else who uses the id.
    await stand.store(3)
    await stand.remover.finish()
    assert await stand.left() == [3]


async def test_a_successor_begins_behind_the_cut(stand: Stand) -> None:
    await stand.store(1)
    stand.last = 2
    assert await stand.delete()
    await stand.register()
    await stand.store(2)
    await stand.store(3)
    await stand.remover.finish()
    await stand.remover.finish()
    assert await stand.left() == [3]
    assert await stand.latest_position() == 3
    # Its own end is another one.
    assert await stand.delete()
    assert await stand.left() == []
    await stand.remover.finish()
    assert await stand.pending() == 0


async def test_analysis_is_told_at_once_and_again_when_every_process_has_heard(stand: Stand) -> None:
    assert await stand.delete()
    assert [(told.device_id, told.by) for told in stand.told if isinstance(told, ForgetDevice)] == [("oven", "ann")]
    await stand.remover.finish()
    await stand.remover.finish()
    assert len(stand.told) == 2


async def test_a_successor_is_not_forgotten_with_it(stand: Stand) -> None:
    assert await stand.delete()
    await stand.register()
    await stand.remover.finish()
    assert len(stand.told) == 1

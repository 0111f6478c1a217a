"""The reading store on a real PostgreSQL: straight and by the detour, the rows are those of the stream's order."""

from __future__ import annotations

import asyncio
import datetime as dt
import gc
import random
from collections.abc import AsyncIterator
from typing import Any

import asyncpg
import pytest

from iotplatform.adapters.postgres.connection import Database
from iotplatform.adapters.postgres.errors import is_echo, translated
from iotplatform.adapters.postgres.frozen import end_frozen_sessions
from iotplatform.adapters.postgres.persistence import PartitionWork, PositionMoved, ReadingStore
from iotplatform.adapters.postgres.reading_rows import Rows, chunks_of
from iotplatform.domain.reading import Reading, Value
from iotplatform.domain.telemetry import UnstorableData
from iotplatform.domain.timestamps import to_microseconds
from iotplatform.errors import Unavailable
from tests.support.platform import eventually

Entry = tuple[Reading, int]


@pytest.fixture
async def store(database_url: str) -> AsyncIterator[ReadingStore]:
    opened = await ReadingStore.open(database_url)
    yield opened
    await opened.close()


@pytest.fixture
async def connection(database_url: str) -> AsyncIterator[asyncpg.Connection]:
    opened = await asyncpg.connect(database_url)
    yield opened
    await opened.close()


@pytest.fixture
async def epoch(connection: asyncpg.Connection) -> int:
    made = await connection.fetchval(
        "INSERT INTO organizations (id, name, partitions) VALUES (gen_random_uuid()::text, 'x', 1) RETURNING epoch"
    )
    await connection.execute("INSERT INTO partitions (epoch, number) VALUES ($1, 0)", made)
    return int(made)


def work(epoch: int, before: int, after: int, entries: list[Entry]) -> PartitionWork:
    return PartitionWork(epoch, 0, before, after, readings=entries)


async def rows(connection: asyncpg.Connection, epoch: int) -> dict[tuple[str, str, int], tuple[Value, int]]:
    found = await connection.fetch(
        "SELECT s.device_id, s.sensor, r.* FROM readings r JOIN series s ON s.id = r.series_id WHERE s.epoch = $1",
        epoch,
    )
    return {
        (row["device_id"], row["sensor"], to_microseconds(row["at"])): (_value(row), row["position"]) for row in found
    }


def _value(row: Any) -> Value:
    return row["text"] if row["kind"] == 2 else bool(row["value"]) if row["kind"] == 1 else row["value"]


async def test_every_type_of_value_and_odd_names(store, connection, epoch) -> None:
    entries: list[Entry] = [
        (Reading("d", "number", -0.1, 0), 1),
        (Reading("d", "true", True, 1), 1),
        (Reading("d", "false", False, 1), 1),
        (Reading("d", "text", "grün, 'quoted' \\ \t", 253_402_300_799_999_999), 1),
        (Reading("d", "empty", "", 1), 1),
        (Reading("d", "tiny", 5e-324, 1), 1),
        (Reading("d", "a name, with \"all\" of it='1' ✓", 1e308, 1), 1),
    ]
    await store.store([work(epoch, 0, 1, entries)])
    assert await rows(connection, epoch) == {
        (reading.device_id, reading.sensor, reading.at): (reading.value, position) for reading, position in entries
    }


async def test_random_commits_leave_the_last_of_each_key(store, connection, epoch) -> None:
    """Some commits meet rows that are there already, some meet a key twice, some are large: the last one counts."""
    choose = random.Random(7)
    expected: dict[tuple[str, str, int], tuple[Value, int]] = {}
    position = 0
    for _ in range(40):
        entries: list[Entry] = []
        before = position
        for _ in range(choose.choice((1, 3, 9_000))):
            position += choose.choice((0, 0, 1))
            reading = Reading(f"d{choose.randrange(3)}", choose.choice("ab"), choose.random(), choose.randrange(20_000))
            entries.append((reading, position + 1))
            expected[reading.device_id, reading.sensor, reading.at] = (reading.value, position + 1)
        position += 1
        await store.store([work(epoch, before, position, entries)])
    assert await rows(connection, epoch) == expected
    stored = await connection.fetchrow("SELECT position, stored FROM partitions WHERE epoch = $1", epoch)
    assert stored["position"] == position
    assert stored["stored"] > len(expected)


async def test_what_was_moved_by_another_stores_nothing(store, connection, epoch) -> None:
    await store.store([work(epoch, 0, 5, [(Reading("d", "s", 1.0, 1), 5)])])
    with pytest.raises(PositionMoved):
        await store.store([work(epoch, 0, 6, [(Reading("d", "s", 2.0, 2), 6)])])
    assert await rows(connection, epoch) == {("d", "s", 1): (1.0, 5)}


@pytest.mark.parametrize(
    "bad",
    [
        pytest.param(Reading("d", "s", "NUL \x00", 1), id="NUL"),
        pytest.param(Reading("d", "s", 1.0, -(1 << 60)), id="a time before PostgreSQL's"),
        pytest.param(Reading("d", "s", 1.0, (1 << 64) - 1), id="a time beyond 64 bits"),
        pytest.param(Reading("d", "s \x00", 1.0, 1), id="NUL in a name"),
    ],
)
async def test_what_postgresql_refuses_is_told_from_what_it_takes(store, connection, epoch, bad) -> None:
    good = (Reading("d", "good", 1.0, 1), 1)
    with pytest.raises(UnstorableData):
        await store.store([work(epoch, 0, 1, [good, (bad, 1)])])
    assert await store.refusal([good, (bad, 1)], epoch)
    assert await store.refusal([good], epoch) is None
    assert await rows(connection, epoch) == {}
    await store.store([work(epoch, 0, 1, [good])])
    assert await rows(connection, epoch) == {("d", "good", 1): (1.0, 1)}


async def test_readings_of_an_organization_that_is_gone_are_not_stored(store, connection, epoch) -> None:
    await connection.execute("DELETE FROM organizations WHERE epoch = $1", epoch)
    with pytest.raises(PositionMoved):
        await store.store([work(epoch, 0, 1, [(Reading("d", "s", 1.0, 1), 1)])])
    assert await connection.fetchval("SELECT count(*) FROM series WHERE epoch = $1", epoch) == 0


async def test_times_are_microseconds(store, connection, epoch) -> None:
    at = to_microseconds(dt.datetime(2026, 11, 24, 12, 0, 0, 123_457, tzinfo=dt.UTC))
    await store.store([work(epoch, 0, 1, [(Reading("d", "s", 1.0, at), 1)])])
    found = await connection.fetch("SELECT at FROM readings JOIN series ON id = series_id WHERE epoch = $1", epoch)
    assert [to_microseconds(row["at"]) for row in found] == [at]


async def test_the_view_shows_readings_under_their_names(store, connection, epoch) -> None:
    at = to_microseconds(dt.datetime(2026, 11, 24, 12, tzinfo=dt.UTC))
    values: list[Value] = [21.5, True, "on"]
    await store.store([work(epoch, 0, 1, [(Reading("d", "s 1", value, at + n), 1) for n, value in enumerate(values)])])
    organization = await connection.fetchval("SELECT id FROM organizations WHERE epoch = $1", epoch)

    async def seen() -> list[tuple[Any, ...]]:
        query = (
            "SELECT device, sensor, kind, value, text FROM telemetry"
            " WHERE organization = $1 AND time >= $2 ORDER BY time"
        )
        since = dt.datetime(2026, 11, 24, tzinfo=dt.UTC)
        return [tuple(row) for row in await connection.fetch(query, organization, since)]

    assert await seen() == [
        ("d", "s 1", "number", 21.5, None),
        ("d", "s 1", "boolean", 1.0, None),
        ("d", "s 1", "text", None, "on"),
    ]
    await connection.execute("DELETE FROM organizations WHERE epoch = $1", epoch)
    assert await seen() == []


async def test_a_process_frozen_between_two_statements_keeps_no_partition_locked(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It stands still between two statements; PostgreSQL ends its session, and it sees that as an outage."""
    monkeypatch.setattr("iotplatform.adapters.postgres.connection.FROZEN_AFTER_MS", 100)
    store = await ReadingStore.open(database_url)

    async def stand_still() -> None:
        with translated():
            async with store._pool.acquire() as connection, connection.transaction():
                ended = asyncio.Event()
                connection.add_termination_listener(lambda _: ended.set())
                await connection.execute("SELECT 1")
                async with asyncio.timeout(10):
                    await ended.wait()
                await connection.execute("SELECT 1")

    try:
        with pytest.raises(Unavailable):
            await stand_still()
    finally:
        await store.close()


async def test_a_process_frozen_in_the_middle_of_a_copy_keeps_no_partition_locked(
    database_url: str, epoch: int, connection: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It stops between two chunks. Others wait for its partition, end its session, and store; it stored nothing."""
    standing, thawed = asyncio.Event(), asyncio.Event()

    async def chunks(rows: Rows) -> AsyncIterator[bytes]:
        async for chunk in chunks_of(rows):
            yield chunk
            standing.set()
            await thawed.wait()

    complaints: list[dict[str, Any]] = []
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(lambda _, context: complaints.append(context))
    database = await Database.open(database_url)
    frozen, successor = await ReadingStore.open(database_url), await ReadingStore.open(database_url)
    entries = [(Reading("d", "s", 1.0, second), 2) for second in range(10)]
    try:
        await successor.store([work(epoch, 0, 1, [(Reading("d", "s", 1.0, 100), 1)])])
        with monkeypatch.context() as patched:
            patched.setattr("iotplatform.adapters.postgres.persistence.chunks_of", chunks)
            stuck = loop.create_task(frozen.store([work(epoch, 1, 2, entries)]), name="frozen")
            await standing.wait()
        # Nobody waits for it yet.
        assert await end_frozen_sessions(database, after_ms=0) == 0
        storing = loop.create_task(successor.store([work(epoch, 1, 2, entries)]), name="successor")

        async def ended() -> bool:
            return await end_frozen_sessions(database, after_ms=0) > 0

        await eventually(ended, within_s=10)
        await storing
        thawed.set()
        with pytest.raises(Unavailable):
            await stuck
        assert len(await rows(connection, epoch)) == 11
        with pytest.raises(PositionMoved):
            await frozen.store([work(epoch, 1, 2, entries)])
        del stuck
        gc.collect()
        assert [context for context in complaints if not is_echo(context)] == []
    finally:
        thawed.set()
        for each in (frozen, successor, database):
            await each.close()


async def test_what_came_by_no_stream_gives_way_to_what_did(
    store: ReadingStore, connection: asyncpg.Connection, epoch: int
) -> None:
    """And is counted nowhere; again changes nothing."""
    at = 1_700_000_000_000_000
    await store.store([work(epoch, 0, 5, [(Reading("oven", "temp", 2.0, at), 5)])])
    for _ in range(2):
        await store.put(epoch, [(Reading("oven", "temp", 1.0, at), 0), (Reading("oven", "temp", 1.0, at + 1), 0)])
    assert await rows(connection, epoch) == {("oven", "temp", at): (2.0, 5), ("oven", "temp", at + 1): (1.0, 0)}
    await store.store([work(epoch, 5, 6, [(Reading("oven", "temp", 3.0, at + 1), 6)])])
    assert (await rows(connection, epoch))["oven", "temp", at + 1] == (3.0, 6)
    counts = await connection.fetchrow("SELECT position, stored FROM partitions WHERE epoch = $1", epoch)
    assert counts is not None
    assert tuple(counts) == (6, 2)

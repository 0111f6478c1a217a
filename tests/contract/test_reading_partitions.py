"""Partitions on a real PostgreSQL: made ahead, made out of the default one under load, packed, cut off in between."""

from __future__ import annotations

import asyncio
import datetime as dt
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import asyncpg
import pytest

from iotplatform.adapters.postgres import reading_partitions
from iotplatform.adapters.postgres.connection import Database
from iotplatform.adapters.postgres.packing import drop_leftovers, pack_one
from iotplatform.adapters.postgres.persistence import PartitionWork, ReadingStore
from iotplatform.adapters.postgres.reading_partitions import (
    KEEPING,
    WORTH_A_PARTITION,
    PartitionMaker,
    caring_session,
    drop,
    month_after,
    month_of,
    partitions,
)
from iotplatform.adapters.postgres.telemetry import PostgresTelemetry
from iotplatform.domain.reading import Reading
from iotplatform.domain.telemetry import Entry
from iotplatform.domain.timestamps import to_microseconds
from iotplatform.errors import Unavailable
from tests.support.platform import eventually

NOW = dt.datetime.now(dt.UTC)
LATE = month_after(month_of(NOW), -30)
MINUTE_US = 60_000_000


@pytest.fixture
async def store(own_database_url: str) -> AsyncIterator[ReadingStore]:
    opened = await ReadingStore.open(own_database_url)
    yield opened
    await opened.close()


@pytest.fixture
async def connection(own_database_url: str) -> AsyncIterator[asyncpg.Connection]:
    opened = await asyncpg.connect(own_database_url)
    yield opened
    await opened.close()


@pytest.fixture
async def epoch(connection: asyncpg.Connection) -> AsyncIterator[int]:
    made = await connection.fetchval(
        "INSERT INTO organizations (id, name, partitions) VALUES (gen_random_uuid()::text, 'x', 1) RETURNING epoch"
    )
    await connection.execute("INSERT INTO partitions (epoch, number) VALUES ($1, 0)", made)
    yield made
    await connection.execute("DELETE FROM readings")
    this_month = month_of(NOW)
    for one in await partitions(connection):
        if one.until <= this_month:
            await drop(connection, one, always)


async def always() -> bool:
    return True


def entries_of(since: dt.datetime, count: int, devices: int = 10, position: int = 1) -> list[Entry]:
    """One a minute from each device."""
    first = to_microseconds(since)
    return [
        (
            Reading(f"d{number % devices}", "s", float(position + number), first + number // devices * MINUTE_US),
            position,
        )
        for number in range(count)
    ]


async def put(store: ReadingStore, epoch: int, before: int, entries: list[Entry]) -> int:
    after = before + 1
    await store.store([PartitionWork(epoch, 0, before, after, readings=entries)])
    return after


def expected_of(*commits: list[Entry]) -> dict[tuple[str, int], object]:
    return {(one.device_id, one.at): one.value for entries in commits for one, _ in entries}


async def found(connection: asyncpg.Connection) -> dict[tuple[str, int], object]:
    rows = await connection.fetch("SELECT device_id, at, value FROM readings JOIN series ON id = series_id")
    kept = {(row["device_id"], to_microseconds(row["at"])): row["value"] for row in rows}
    assert len(kept) == len(rows)
    return kept


async def homes(connection: asyncpg.Connection) -> dict[str, int]:
    rows = await connection.fetch("SELECT tableoid::regclass::text, count(*) FROM readings GROUP BY 1")
    return {row[0]: row[1] for row in rows}


async def test_the_months_to_come_have_partitions_before_they_begin(connection, epoch) -> None:
    def names(now: dt.datetime, count: int) -> list[str]:
        return [f"readings_{month_after(month_of(now), number):%Y_%m}" for number in range(count)]

    assert [one.name for one in await partitions(connection)] == names(NOW, 2)
    assert await PartitionMaker().make(connection, NOW) == []
    later = month_after(month_of(NOW), 2) + dt.timedelta(days=20)
    made = await PartitionMaker().make(connection, later)
    assert made == names(later, 2)
    for one in await partitions(connection):
        if one.name in made:
            await drop(connection, one, always)


async def test_late_readings_get_a_partition_and_move_there_while_others_are_stored(
    store, own_database_url, connection, epoch
) -> None:
    """What is stored, overwritten and read meanwhile is there exactly once, at every moment."""
    late = entries_of(LATE, WORTH_A_PARTITION + 5_000)
    few = entries_of(month_after(LATE, -5), 100)
    ancient = entries_of(dt.datetime(1971, 1, 1, tzinfo=dt.UTC), WORTH_A_PARTITION + 10)
    position = await put(store, epoch, 0, late + few + ancient)
    assert set(await homes(connection)) == {"readings_default"}

    commits = [late, few, ancient]
    choose = random.Random(3)
    done = asyncio.Event()

    async def go_on() -> None:
        nonlocal position
        turn = 0
        while not done.is_set():
            turn += 1
            again = [
                (Reading(one.device_id, "s", float(-turn), one.at), turn + 1) for one, _ in choose.sample(late, 20)
            ]
            present = entries_of(NOW.replace(day=1), 200, position=turn)
            commits.extend([again, present])
            position = await put(store, epoch, position, again + present)
            page = await connection.fetchval("SELECT count(*) FROM readings WHERE at >= $1 AND at < $2", LATE, NOW)
            assert page >= len(late)

    working = asyncio.get_running_loop().create_task(go_on())
    try:
        async with caring_session(own_database_url, KEEPING) as session:
            assert session is not None
            maker = PartitionMaker()
            assert await maker.make(session, NOW) == [f"readings_{LATE:%Y_%m}"]
            assert await maker.make(session, NOW) == []
    finally:
        done.set()
        await working
    kept = await found(connection)
    assert kept == expected_of(*commits)
    where = await homes(connection)
    assert where["readings_default"] == len(few) + len(ancient)
    assert where[f"readings_{LATE:%Y_%m}"] == len(late)


async def test_over_partitions_latest_is_the_newest_and_removals_remove(
    store, own_database_url, connection, epoch
) -> None:
    late = entries_of(LATE, WORTH_A_PARTITION + 10)
    new = entries_of(NOW.replace(day=1), 20, position=2)
    older = entries_of(dt.datetime(1971, 1, 1, tzinfo=dt.UTC), 20)
    position = await put(store, epoch, 0, late)
    await PartitionMaker().make(connection, NOW)
    await put(store, epoch, position, new + older)
    assert len(await homes(connection)) == 3
    database = await Database.open(own_database_url)
    try:
        telemetry = PostgresTelemetry(database)
        latest = await telemetry.latest(epoch, [], None, 100)
        assert {one.device_id: one.at for one in latest} == {f"d{n}": new[10 + n][0].at for n in range(10)}
        await telemetry.remove_device(epoch, "d3", 100)
        assert {key[0] for key in await found(connection)} == {f"d{n}" for n in range(10)} - {"d3"}
        await telemetry.remove_organization(epoch)
        assert await found(connection) == {}
    finally:
        await database.close()


async def test_behind_a_long_query_nothing_is_made_and_nobody_waits_for_long(
    store, own_database_url, connection, epoch, monkeypatch
) -> None:
    monkeypatch.setattr(reading_partitions, "LOCK_TIMEOUT_MS", 200)
    late = entries_of(LATE, WORTH_A_PARTITION)
    await put(store, epoch, 0, late)
    async with opened(own_database_url) as reader, reader.transaction():
        await reader.fetchval("SELECT count(*) FROM readings")
        with pytest.raises(Unavailable):
            await PartitionMaker().make(connection, NOW)
        assert await found(connection) == expected_of(late)
    assert await PartitionMaker().make(connection, NOW) == [f"readings_{LATE:%Y_%m}"]
    assert await found(connection) == expected_of(late)


async def test_a_session_that_dies_while_it_moves_has_moved_nothing(
    store, own_database_url, connection, epoch, monkeypatch
) -> None:
    late = entries_of(LATE, WORTH_A_PARTITION)
    await put(store, epoch, 0, late)
    # It stands still at the end of all that it does, with everything moved and nothing committed.
    monkeypatch.setattr(reading_partitions, "_MAKE", reading_partitions._MAKE + ";SELECT pg_sleep(60)")
    async with opened(own_database_url) as mover:
        working = asyncio.get_running_loop().create_task(PartitionMaker().make(mover, NOW))
        await eventually(lambda: is_asleep(connection, mover.get_server_pid()))
        await connection.execute("SELECT pg_terminate_backend($1, 5000)", mover.get_server_pid())
        with pytest.raises(Unavailable):
            await working
    monkeypatch.undo()
    assert await homes(connection) == {"readings_default": len(late)}
    assert await found(connection) == expected_of(late)
    assert await PartitionMaker().make(connection, NOW) == [f"readings_{LATE:%Y_%m}"]
    assert await found(connection) == expected_of(late)


async def test_one_process_at_a_time_cares(own_database_url: str) -> None:
    async with caring_session(own_database_url, KEEPING) as first, caring_session(own_database_url, KEEPING) as second:
        assert first is not None
        assert second is None


async def test_what_is_over_is_packed_once_and_again_when_much_came_late(store, connection, epoch, monkeypatch) -> None:
    monkeypatch.setattr("iotplatform.adapters.postgres.packing.SLACK_BYTES", 0)
    name = f"readings_{LATE:%Y_%m}"
    await put(store, epoch, 0, entries_of(LATE, WORTH_A_PARTITION))
    await PartitionMaker().make(connection, NOW)
    # By time, one row of each series after the other, as it is with live readings.
    position = 1
    for number in range(6):
        since = LATE + dt.timedelta(days=number + 2)
        position = await put(store, epoch, position, entries_of(since, 10_000, devices=400))
    loose = await index_bytes(connection, name)
    assert await pack_one(connection, NOW) == name
    packed = await index_bytes(connection, name)
    assert packed < loose
    # With the row's 60.2 that is less than 90.
    assert packed / await connection.fetchval(f"SELECT count(*) FROM {name}") < 29
    assert await pack_one(connection, NOW) is None
    await put(store, epoch, position, entries_of(LATE + dt.timedelta(days=9), 20_000, devices=400))
    assert await pack_one(connection, NOW) == name
    assert await pack_one(connection, NOW) is None


async def test_half_an_index_that_a_dead_session_left_is_dropped(store, own_database_url, connection, epoch) -> None:
    name = f"readings_{LATE:%Y_%m}"
    late = entries_of(LATE, WORTH_A_PARTITION)
    await put(store, epoch, 0, late)
    await PartitionMaker().make(connection, NOW)
    async with opened(own_database_url) as packer, opened(own_database_url) as reader:
        # Packing waits for those who may still use the old index; there its session ends.
        async with reader.transaction():
            await reader.fetchval(f"SELECT count(*) FROM {name}")
            packing = asyncio.get_running_loop().create_task(pack_one(packer, NOW))
            await eventually(lambda: has_leftovers(connection))
            await connection.execute("SELECT pg_terminate_backend($1, 5000)", packer.get_server_pid())
            with pytest.raises(Unavailable):
                await packing
        assert len(await drop_leftovers(connection)) == 1
        assert not await has_leftovers(connection)
    assert await pack_one(connection, NOW) == name
    assert await found(connection) == expected_of(late)


@asynccontextmanager
async def opened(own_database_url: str) -> AsyncIterator[asyncpg.Connection]:
    connection = await asyncpg.connect(own_database_url)
    try:
        yield connection
    finally:
        connection.terminate()


async def is_asleep(connection: asyncpg.Connection, pid: int) -> bool:
    return await connection.fetchval("SELECT wait_event = 'PgSleep' FROM pg_stat_activity WHERE pid = $1", pid)


async def has_leftovers(connection: asyncpg.Connection) -> bool:
    return await connection.fetchval("SELECT EXISTS (SELECT FROM pg_index WHERE NOT indisvalid)")


async def index_bytes(connection: asyncpg.Connection, name: str) -> int:
    return await connection.fetchval("SELECT pg_indexes_size($1::regclass)", name)

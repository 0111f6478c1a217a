"""Readings that are too old, on a real PostgreSQL: exactly those go that a look at each of them finds."""

from __future__ import annotations

import asyncio
import datetime as dt
import json
import random
from collections.abc import AsyncIterator

import asyncpg
import msgspec
import pytest

from iotplatform.adapters.postgres import expiry, reading_partitions
from iotplatform.adapters.postgres.connection import Database
from iotplatform.adapters.postgres.expiry import Expired, expire
from iotplatform.adapters.postgres.reading_partitions import PartitionMaker, month_after, month_of, partitions
from iotplatform.adapters.postgres.retention import Policies, shortest_retention_s
from iotplatform.domain.retention import Retention, days_of
from iotplatform.errors import Unavailable
from tests.support.platform import eventually

NOW = dt.datetime.now(dt.UTC)
THIS_MONTH = month_of(NOW)
COLUMNS = ("series_id", "kind", "at", "value", "position", "text")
DEVICES = ("d1", "d2", "d3")
SENSORS = ("a", "ab", "b")

Kept = set[tuple[int, dt.datetime]]


@pytest.fixture
async def connection(own_database_url: str, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[asyncpg.Connection]:
    """Partitions of the last six months, and nothing else."""
    opened = await asyncpg.connect(own_database_url)
    await opened.execute(
        "TRUNCATE readings, series, organizations, rollups_minute, rollups_hour, rollups_day, rollup_marks CASCADE"
    )
    for ago in range(1, 7):
        await PartitionMaker().make(opened, month_after(THIS_MONTH, -ago))
    monkeypatch.setattr(expiry, "ROWS_AT_ONCE", 50)
    monkeypatch.setattr(expiry, "SERIES_AT_ONCE", 3)
    yield opened
    await opened.close()


async def organization(connection: asyncpg.Connection, said: dict[str, object] | None) -> int:
    epoch = await connection.fetchval(
        "INSERT INTO organizations (id, name, partitions) VALUES (gen_random_uuid()::text, 'x', 1) RETURNING epoch"
    )
    for device in DEVICES:
        await connection.execute(
            "INSERT INTO devices (epoch, id, name, tags) VALUES ($1, $2, 'x', '{}')", epoch, device
        )
        for sensor in SENSORS:
            await connection.execute(
                "INSERT INTO series (epoch, device_id, sensor) VALUES ($1, $2, $3)", epoch, device, sensor
            )
    if said is not None:
        await connection.execute("INSERT INTO retention (epoch, definition) VALUES ($1, $2)", epoch, json.dumps(said))
    return int(epoch)


async def fill(connection: asyncpg.Connection, ids: list[int], times: list[dt.datetime]) -> None:
    rows = [(id_, 0, at, 1.0, 1, None) for id_ in ids for at in times]
    await connection.copy_records_to_table("readings", records=rows, columns=COLUMNS)


async def ids_of(connection: asyncpg.Connection, epoch: int) -> list[int]:
    return [row[0] for row in await connection.fetch("SELECT id FROM series WHERE epoch = $1", epoch)]


async def kept(connection: asyncpg.Connection) -> Kept:
    return {(row[0], row[1]) for row in await connection.fetch("SELECT series_id, at FROM readings")}


def _over(month: dt.datetime) -> bool:
    return month_after(month, 1) <= NOW - dt.timedelta(days=31)


async def run(connection: asyncpg.Connection) -> Expired:
    expired = Expired()
    await expire(connection, await Policies.load(connection), NOW, expired)
    return expired


@pytest.mark.parametrize("seed", range(6))
async def test_exactly_what_is_too_old_goes(connection: asyncpg.Connection, seed: int) -> None:
    choose = random.Random(seed)

    def said() -> dict[str, object]:
        found: dict[str, object] = {}
        if choose.random() < 0.7:
            found["days"] = choose.choice([None, 1, 10, 45, 100, 160])
        if choose.random() < 0.7:
            some = choose.sample(["a", "a*", "*", "b"], choose.randint(1, 3))
            found["sensors"] = {glob: choose.choice([None, 1, 10, 45, 100, 160]) for glob in some}
        return found

    expected: Kept = set()
    count = 0
    for _ in range(3):
        organizations = choose.choice([None, said(), said()])
        epoch = await organization(connection, organizations)
        devices = {device: said() for device in DEVICES if choose.random() < 0.4}
        for device, definition in devices.items():
            await connection.execute(
                "INSERT INTO device_retention (epoch, device_id, definition) VALUES ($1, $2, $3)",
                epoch, device, json.dumps(definition),
            )  # fmt: skip
        for row in await connection.fetch("SELECT id, device_id, sensor FROM series WHERE epoch = $1", epoch):
            # Years back, where the default partition has them, and into the months to come.
            times = [NOW - dt.timedelta(days=choose.uniform(-20, 200)) for _ in range(40)]
            times += [NOW - dt.timedelta(days=4_000 * choose.random()) for _ in range(3)]
            await fill(connection, [row["id"]], times)
            count += len(times)
            device = devices.get(row["device_id"])
            days = days_of(
                msgspec.convert(organizations or {}, Retention),
                None if device is None else msgspec.convert(device, Retention),
                row["sensor"],
            )
            expected |= {(row["id"], at) for at in times if days is None or at >= NOW - dt.timedelta(days=days)}
    expired = await run(connection)
    assert await kept(connection) == expected
    assert expired.rows + expired.rows_dropped == count - len(expected)
    assert await run(connection) == Expired()
    assert THIS_MONTH in {one.since for one in await partitions(connection)}


async def test_a_partition_that_nobody_keeps_is_dropped_and_one_with_another_kept_reading_is_not(
    connection: asyncpg.Connection,
) -> None:
    passing = await ids_of(connection, await organization(connection, {"days": 31}))
    keeping = await ids_of(connection, await organization(connection, None))
    months = [month_after(THIS_MONTH, -ago) + dt.timedelta(days=3) for ago in (6, 5, 4, 3)]
    await fill(connection, passing, months)
    await fill(connection, keeping[:1], months[1:2])
    expired = await run(connection)
    dropped = [f"readings_{month_after(THIS_MONTH, -ago):%Y_%m}" for ago in (6, 4, 3)]
    # This one was empty. Of a month that is not over since 31 days nobody can say that it is not kept.
    dropped += [f"readings_{two:%Y_%m}"] if (two := month_after(THIS_MONTH, -2)) and _over(two) else []
    assert expired.partitions == dropped
    assert expired.rows_dropped == 3 * len(passing)
    assert expired.rows == len(passing)
    assert {row[0] for row in await kept(connection)} == {keeping[0]}


async def test_a_reading_that_is_kept_and_comes_at_the_last_moment_saves_its_partition(
    connection: asyncpg.Connection, own_database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is stored between the look at the partition and the lock of it."""
    passing = await ids_of(connection, await organization(connection, {"days": 31}))
    keeping = await ids_of(connection, await organization(connection, None))
    at = month_after(THIS_MONTH, -4) + dt.timedelta(days=3)
    await fill(connection, passing, [at])
    other = await asyncpg.connect(own_database_url)
    whole_drop = reading_partitions.drop

    async def late_drop(session, partition, only_if):  # type: ignore[no-untyped-def]
        if partition.since <= at < partition.until:
            await fill(other, keeping[:1], [at])
        return await whole_drop(session, partition, only_if)

    monkeypatch.setattr(expiry, "drop", late_drop)
    await run(connection)
    await other.close()
    assert await kept(connection) == {(keeping[0], at)}


async def test_behind_a_long_query_rows_go_and_the_partition_goes_another_time(
    connection: asyncpg.Connection, own_database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reading_partitions, "LOCK_TIMEOUT_MS", 50)
    passing = await ids_of(connection, await organization(connection, {"days": 31}))
    await fill(connection, passing, [month_after(THIS_MONTH, -4) + dt.timedelta(days=3)])
    reader = await asyncpg.connect(own_database_url)
    async with reader.transaction():
        await reader.fetchval("SELECT count(*) FROM readings")
        expired = await run(connection)
    await reader.close()
    assert (expired.rows, expired.partitions) == (len(passing), [])
    assert await kept(connection) == set()
    assert (await run(connection)).partitions


async def test_rollups_go_with_their_readings_and_what_is_left_of_a_day_is_marked(
    connection: asyncpg.Connection,
) -> None:
    passing = await ids_of(connection, await organization(connection, {"days": 31}))
    keeping = await ids_of(connection, await organization(connection, None))
    cut = NOW - dt.timedelta(days=31)
    hour = cut.replace(minute=0, second=0, microsecond=0)
    day = hour.replace(hour=0)
    months_ago = month_after(THIS_MONTH, -4) + dt.timedelta(days=3)
    await fill(connection, [passing[0], keeping[0]], [months_ago, cut - dt.timedelta(microseconds=1), cut, NOW])
    for id_ in (passing[0], keeping[0]):
        for table, times in {
            "rollups_minute": [months_ago, hour],
            "rollups_hour": [months_ago, hour - dt.timedelta(hours=1), hour],
            "rollups_day": [months_ago, day - dt.timedelta(days=1), day],
        }.items():
            await connection.executemany(
                f"INSERT INTO {table} (series_id, at, readings, numbers, amount, large, first_at, last_at) "
                "VALUES ($1, $2, 1, 1, 1, 0, now(), now())",
                [(id_, at) for at in times],
            )
    await run(connection)
    for table, left in {"rollups_minute": hour, "rollups_hour": hour, "rollups_day": day}.items():
        rows = await connection.fetch(f"SELECT series_id, at FROM {table} WHERE series_id <> $1", keeping[0])
        assert [tuple(row) for row in rows] == [(passing[0], left)]
        assert await connection.fetchval(f"SELECT count(*) FROM {table} WHERE series_id = $1", keeping[0]) >= 2
    marks = await connection.fetch("SELECT series_id, hour FROM rollup_marks ORDER BY hour DESC")
    assert tuple(marks[0]) == (passing[0], hour)
    assert {mark[0] for mark in marks} == {passing[0]}


async def waits(connection: asyncpg.Connection, pid: int) -> bool:
    return await connection.fetchval("SELECT cardinality(pg_blocking_pids($1)) > 0", pid)


async def test_a_run_that_is_cut_off_goes_on_in_the_next_one(
    connection: asyncpg.Connection, own_database_url: str
) -> None:
    passing = await ids_of(connection, await organization(connection, {"days": 31}))
    keeping = await ids_of(connection, await organization(connection, None))
    at = month_after(THIS_MONTH, -3) + dt.timedelta(days=1)
    times = [at + dt.timedelta(minutes=number) for number in range(500)]
    await fill(connection, passing + keeping, times)
    cut_off, holder = await asyncpg.connect(own_database_url), await asyncpg.connect(own_database_url)
    expired = Expired()
    async with holder.transaction():
        # Where it will have to wait, in the middle of its work.
        await holder.execute(
            f"SELECT FROM readings_{at:%Y_%m} WHERE series_id = $1 AND at = $2 FOR UPDATE", max(passing), times[-1]
        )
        working = asyncio.get_running_loop().create_task(expire(cut_off, await Policies.load(connection), NOW, expired))
        await eventually(lambda: waits(connection, cut_off.get_server_pid()))
        await connection.execute("SELECT pg_terminate_backend($1, 5000)", cut_off.get_server_pid())
        with pytest.raises(Unavailable):
            await working
    await holder.close()
    assert expired.rows > 0
    again = await run(connection)
    # A batch that was removed in the moment of the end is not counted.
    assert again.rows + expired.rows >= len(passing) * len(times) - 50
    assert await kept(connection) == {(id_, time) for id_ in keeping for time in times}


async def test_the_shortest_word_in_an_organization_is_what_its_stream_keeps(own_database_url: str, connection) -> None:
    epoch = await organization(connection, {"days": 90, "sensors": {"a": None, "b": 30}})
    forever = await organization(connection, {"days": None})
    database = await Database.open(own_database_url)
    assert await shortest_retention_s(database) == {epoch: 30 * 86_400.0}
    await connection.execute(
        "INSERT INTO device_retention (epoch, device_id, definition) VALUES ($1, 'd1', '{\"days\": 2}')", forever
    )
    assert await shortest_retention_s(database) == {epoch: 30 * 86_400.0, forever: 2 * 86_400.0}
    await database.close()

"""A table full of readings becomes a partition, without being written anew, and old code goes on working."""

from __future__ import annotations

import asyncio
import datetime as dt
import re
import uuid
from collections.abc import AsyncIterator
from pathlib import Path
from urllib.parse import urlsplit

import asyncpg
import pytest
from alembic import command

from iotplatform.adapters.postgres.migrations import _config, migrate
from iotplatform.adapters.postgres.reading_partitions import PartitionMaker, month_after, month_of, partitions

# The newest revision of the release before.
(FILE,) = (Path(__file__).parents[2] / "migrations" / "versions").glob("*_reading_partitions.py")
BEFORE = re.findall(r'^down_revision = "(\w+)"', FILE.read_text(), re.MULTILINE)[0]
NOW = dt.datetime.now(dt.UTC)
COLUMNS = ("series_id", "kind", "at", "value", "position", "text")
# As the release before has it.
UPSERT = """
INSERT INTO readings AS stored (series_id, kind, at, value, position, text) VALUES ($1, 0, $2, $3, $4, NULL)
ON CONFLICT (series_id, at) DO UPDATE SET value = excluded.value, position = excluded.position
WHERE excluded.position >= stored.position
"""
DELETE = """
DELETE FROM readings r USING (SELECT series_id, at FROM readings WHERE series_id = ANY($1::int[]) LIMIT 10) chosen
WHERE r.series_id = chosen.series_id AND r.at = chosen.at
"""


@pytest.fixture
async def before(database_url: str) -> AsyncIterator[asyncpg.Connection]:
    """A database as it was before there were partitions, with one series in it."""
    name = f"before_{uuid.uuid4().hex}"
    admin = await asyncpg.connect(database_url)
    await admin.execute(f"CREATE DATABASE {name} TEMPLATE template0")
    await asyncio.to_thread(lambda: command.upgrade(_config(url_of(database_url, name)), BEFORE))
    connection = await asyncpg.connect(url_of(database_url, name))
    await connection.execute("INSERT INTO organizations (id, name, partitions) VALUES ('acme', 'A', 1)")
    await connection.execute("INSERT INTO series (epoch, device_id, sensor) SELECT epoch, 'd', 's' FROM organizations")
    yield connection
    await connection.close()
    await admin.execute(f"DROP DATABASE {name} WITH (FORCE)")
    await admin.close()


def url_of(database_url: str, name: str) -> str:
    return urlsplit(database_url)._replace(path=f"/{name}").geturl()


async def upgrade(connection: asyncpg.Connection, database_url: str) -> None:
    await migrate(url_of(database_url, await connection.fetchval("SELECT current_database()")))


async def fill(connection: asyncpg.Connection, *times: dt.datetime) -> list[tuple[object, ...]]:
    (series,) = [row[0] for row in await connection.fetch("SELECT id FROM series")]
    rows = [(series, 0, at, float(number), number, None) for number, at in enumerate(times)]
    await connection.copy_records_to_table("readings", records=rows, columns=COLUMNS)
    return rows


async def all_rows(connection: asyncpg.Connection) -> list[tuple[object, ...]]:
    return [tuple(row) for row in await connection.fetch("SELECT * FROM readings ORDER BY at")]


async def test_a_full_table_becomes_what_was_before_and_old_code_goes_on(before, database_url: str) -> None:
    times = [NOW - dt.timedelta(days=900 - day) for day in range(0, 900, 7)] + [NOW + dt.timedelta(hours=24)]
    rows = await fill(before, *times)
    await before.execute(f"CREATE ROLE reader_{(role := uuid.uuid4().hex)}")
    await before.execute(f"GRANT SELECT ON telemetry TO reader_{role}")
    file = await before.fetchval("SELECT pg_relation_filenode('readings')")
    try:
        await upgrade(before, database_url)
        assert await all_rows(before) == rows
        assert await before.fetchval("SELECT pg_relation_filenode('readings_before')") == file
        found = await partitions(before)
        cut = found[0].until
        assert found[0].since is None
        assert cut > times[-1]
        assert [one.since for one in found[1:]] == [cut, month_after(cut, 1)]

        series = rows[0][0]
        later = cut + dt.timedelta(days=3)
        await before.copy_records_to_table("readings", records=[(series, 0, later, 7.0, 900, None)], columns=COLUMNS)
        await before.execute(UPSERT, series, times[0], 8.0, 901)
        await before.execute(UPSERT, series, times[1], 9.0, 0)
        with pytest.raises(asyncpg.UniqueViolationError):
            await before.copy_records_to_table(
                "readings", records=[(series, 0, later, 1.0, 902, None)], columns=COLUMNS
            )
        values = [row[3] for row in await all_rows(before)]
        assert values == [8.0, *[float(number) for number in range(1, len(rows))], 7.0]

        await before.execute(f"SET ROLE reader_{role}")
        assert await before.fetchval("SELECT count(*) FROM telemetry WHERE device = 'd'") == len(rows) + 1
        await before.execute("RESET ROLE")
        await before.execute(DELETE, [series])
        assert len(await all_rows(before)) == len(rows) + 1 - 10
        assert await PartitionMaker().make(before, NOW) == []
    finally:
        await before.execute(f"DROP OWNED BY reader_{role}; DROP ROLE reader_{role}")


async def test_a_time_far_ahead_is_no_reason_to_have_one_partition_for_good(before, database_url: str) -> None:
    rows = await fill(before, NOW - dt.timedelta(days=40), NOW, dt.datetime(9999, 1, 1, tzinfo=dt.UTC))
    await upgrade(before, database_url)
    assert await all_rows(before) == rows
    assert await partitions(before) == []
    made = await PartitionMaker().make(before, NOW)
    assert made == [f"readings_{month_after(month_of(NOW), number):%Y_%m}" for number in range(2)]
    assert await all_rows(before) == rows
    assert await before.fetchval(f"SELECT count(*) FROM {made[0]}") == 1


async def test_an_empty_table_has_partitions_at_once_and_can_go_back(before, database_url: str) -> None:
    await upgrade(before, database_url)
    assert [one.since for one in await partitions(before)] == [month_after(month_of(NOW), n) for n in range(2)]
    rows = await fill(before, NOW - dt.timedelta(days=400), NOW)
    url = url_of(database_url, await before.fetchval("SELECT current_database()"))
    await asyncio.to_thread(lambda: command.downgrade(_config(url), BEFORE))
    assert await all_rows(before) == rows
    assert await before.fetchval("SELECT count(*) FROM telemetry") == 2
    assert (
        await before.fetchval("SELECT count(*) FROM pg_class WHERE relname LIKE 'readings%' AND relkind IN ('r', 'p')")
        == 1
    )

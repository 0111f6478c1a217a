"""From an empty database to head, as `iotplatform migrate` and `serve` do it."""

from __future__ import annotations

import asyncio
import sys
import time
import uuid
from collections.abc import AsyncIterator
from urllib.parse import urlsplit

import asyncpg
import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import Connection, text
from sqlalchemy.dialects.postgresql.base import ischema_names

from iotplatform.adapters.postgres.connection import make_engine
from iotplatform.adapters.postgres.migrations import at_head, migrate
from iotplatform.adapters.postgres.models import Model, Xid8
from iotplatform.errors import Unavailable


@pytest.fixture
async def empty_url(database_url: str) -> AsyncIterator[str]:
    """A new database beside the shared one."""
    name = f"empty_{uuid.uuid4().hex}"
    admin = await asyncpg.connect(database_url)
    await admin.execute(f"CREATE DATABASE {name} TEMPLATE template0")
    yield urlsplit(database_url)._replace(path=f"/{name}").geturl()
    await admin.execute(f"DROP DATABASE {name} WITH (FORCE)")
    await admin.close()


async def test_from_empty_to_head_without_drift(empty_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert not await at_head(empty_url)
    await migrate(empty_url)
    assert await at_head(empty_url)
    monkeypatch.setitem(ischema_names, "xid8", Xid8)

    def differences(connection: Connection) -> list[object]:
        # Partitions are as their parent is, and come and go.
        parts = set(connection.scalars(text("SELECT relname FROM pg_class WHERE relispartition")))
        options = {
            "compare_type": True,
            "compare_server_default": True,
            "include_name": lambda name, kind, _: kind != "table" or name not in parts,
        }
        context = MigrationContext.configure(connection, opts=options)
        return list(compare_metadata(context, Model.metadata))

    engine = make_engine(empty_url, pool_size=1)
    async with engine.connect() as connection:
        assert await connection.run_sync(differences) == []
    await engine.dispose()


async def test_again_changes_nothing(empty_url: str) -> None:
    await migrate(empty_url)
    connection = await asyncpg.connect(empty_url)
    await connection.execute("INSERT INTO organizations (id, name, partitions) VALUES ('a', 'A', 1)")
    await migrate(empty_url)
    assert await connection.fetchval("SELECT count(*) FROM organizations") == 1
    assert await connection.fetch("SELECT * FROM positions ORDER BY reader") == [
        ("notification", 0),
        ("persistence", 0),
    ]
    await connection.close()


async def test_several_processes_at_once(empty_url: str) -> None:
    program = (
        "import asyncio, sys; from iotplatform.adapters.postgres.migrations import migrate;"
        " asyncio.run(migrate(sys.argv[1]))"
    )
    processes = [
        await asyncio.create_subprocess_exec(
            sys.executable, "-W", "error", "-c", program, empty_url, stderr=asyncio.subprocess.PIPE
        )
        for _ in range(3)
    ]
    for process in processes:
        _, errors = await process.communicate()
        assert process.returncode == 0, errors.decode()
    assert await at_head(empty_url)


async def test_several_callers_in_one_process(empty_url: str) -> None:
    await asyncio.gather(migrate(empty_url), migrate(empty_url))
    assert await at_head(empty_url)


async def test_the_loop_goes_on_meanwhile(empty_url: str) -> None:
    longest = 0.0

    async def watch() -> None:
        nonlocal longest
        while True:
            before = time.perf_counter()
            await asyncio.sleep(0.001)
            longest = max(longest, time.perf_counter() - before)

    watcher = asyncio.get_running_loop().create_task(watch())
    await migrate(empty_url)
    watcher.cancel()
    # Generous, because the thread that migrates shares the interpreter.
    assert longest < 1.0


async def test_a_server_that_is_not_there() -> None:
    nowhere = "postgresql://iotplatform@/iotplatform?host=/nonexistent"
    with pytest.raises(Unavailable):
        await migrate(nowhere)
    with pytest.raises(Unavailable):
        await at_head(nowhere)


async def test_one_active_alarm_per_rule_and_series(empty_url: str) -> None:
    await migrate(empty_url)
    connection = await asyncpg.connect(empty_url)
    epoch = await connection.fetchval(
        "INSERT INTO organizations (id, name, partitions) VALUES ('a', 'A', 1) RETURNING epoch"
    )
    insert = (
        "INSERT INTO alarms (id, epoch, rule_id, rule_name, device_id, sensor, severity, state, condition, raised_at,"
        " first_breach_at, trigger_value, readings, position)"
        " VALUES ($1, $2, 'r', 'R', 'd', 's', 'major', $3, '> 80', now(), now(), 90, '[]', 1)"
    )
    await connection.execute(insert, uuid.uuid4(), epoch, "active")
    with pytest.raises(asyncpg.UniqueViolationError):
        await connection.execute(insert, uuid.uuid4(), epoch, "active")
    for _ in range(2):
        await connection.execute(insert, uuid.uuid4(), epoch, "cleared")
    with pytest.raises(asyncpg.CheckViolationError):
        await connection.execute(insert, uuid.uuid4(), epoch, "open")
    await connection.close()


async def test_deleting_an_organization_takes_everything_along(empty_url: str) -> None:
    await migrate(empty_url)
    connection = await asyncpg.connect(empty_url)
    epoch = await connection.fetchval(
        "INSERT INTO organizations (id, name, partitions) VALUES ('a', 'A', 1) RETURNING epoch"
    )
    for statement in (
        "INSERT INTO devices (epoch, id, name) VALUES ($1, 'd', 'D')",
        "INSERT INTO device_tokens (id, epoch, device_id, kind, expires_at) VALUES ('j', $1, 'd', 'jwt', now())",
        "INSERT INTO rules (epoch, id, definition) VALUES ($1, 'r', '{}')",
        "INSERT INTO channels (epoch, id, name, type, severities) VALUES ($1, 'c', 'C', 'log', '{}')",
        "INSERT INTO partitions (epoch, number) VALUES ($1, 0)",
        "INSERT INTO lanes VALUES ($1, 0, 'l', 'http', 1, 1, now())",
        "INSERT INTO series (epoch, device_id, sensor) VALUES ($1, 'd', 's')",
        (
            "INSERT INTO deliveries (id, epoch, alarm_id, channel_id, transition, state, event)"
            " VALUES (gen_random_uuid(), $1, gen_random_uuid(), 'c', 'raised', 'pending', '{}')"
        ),
    ):
        await connection.execute(statement, epoch)
    await connection.execute("DELETE FROM changes")
    await connection.execute("DELETE FROM organizations")
    for table in ("devices", "device_tokens", "rules", "channels", "partitions", "lanes", "deliveries"):
        assert await connection.fetchval(f"SELECT count(*) FROM {table}") == 0, table
    changed = await connection.fetch("SELECT kind, epoch, key FROM changes ORDER BY kind")
    assert changed == [
        ("channel", epoch, "c"),
        ("device", epoch, "d"),
        ("device_token", epoch, "j"),
        ("organization", epoch, "a"),
        ("rule", epoch, "r"),
    ]
    await connection.close()

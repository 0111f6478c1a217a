"""The two ways into PostgreSQL: they outlive its restarts, and its absence is Unavailable rather than a bug."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator

import asyncpg
import pytest
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError

from iotplatform.adapters.postgres import organizations
from iotplatform.adapters.postgres.connection import Database
from iotplatform.adapters.postgres.errors import conflict, translated
from iotplatform.domain.channel import LOG_CHANNEL
from iotplatform.domain.organization import Organization
from iotplatform.domain.rule import Rule, Threshold
from iotplatform.errors import Rejected, Unavailable


@pytest.fixture
async def database(database_url: str) -> AsyncIterator[Database]:
    opened = await Database.open(database_url, pool_size=3)
    yield opened
    await opened.close()


@pytest.fixture
async def admin(database_url: str) -> AsyncIterator[asyncpg.Connection[asyncpg.Record]]:
    opened = await asyncpg.connect(database_url)
    yield opened
    await opened.close()


async def by_pool(database: Database, query: str) -> object:
    with translated():
        return await database.pool.fetchval(query)


async def by_session(database: Database, query: str) -> object:
    with translated():
        async with database.sessions() as session:
            return await session.scalar(text(query))


async def end_connections(database: Database, admin: asyncpg.Connection[asyncpg.Record]) -> None:
    """What a restart of the server does to the connections that were open."""
    pids = {await by_pool(database, "SELECT pg_backend_pid()"), await by_session(database, "SELECT pg_backend_pid()")}
    for pid in pids:
        await admin.execute("SELECT pg_terminate_backend($1, 1000)", pid)


@pytest.mark.parametrize("ask", [by_pool, by_session])
async def test_connections_are_made_anew(
    database: Database, admin: asyncpg.Connection[asyncpg.Record], ask: object
) -> None:
    assert callable(ask)
    for _ in range(3):
        await end_connections(database, admin)
        await asyncio.sleep(0.05)
        assert await ask(database, "SELECT 1") == 1


@pytest.mark.parametrize("ask", [by_pool, by_session])
async def test_a_connection_that_ends_under_a_query_is_unavailable(
    database: Database, admin: asyncpg.Connection[asyncpg.Record], ask: object
) -> None:
    assert callable(ask)
    marker = uuid.uuid4().hex
    query = asyncio.get_running_loop().create_task(ask(database, f"SELECT pg_sleep(30), '{marker}'"))
    end = (
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
        f" WHERE state = 'active' AND query LIKE '%{marker}%' AND pid <> pg_backend_pid()"
    )
    while not await admin.fetchval(end):  # noqa: ASYNC110 - only the server knows when the query runs
        await asyncio.sleep(0.01)
    with pytest.raises(Unavailable):
        await query


async def test_a_server_that_is_not_there() -> None:
    with pytest.raises(Unavailable):
        await Database.open("postgresql://iotplatform@/iotplatform?host=/nonexistent")
    with pytest.raises(Unavailable):
        await Database.open("postgresql://iotplatform@127.0.0.1:1/iotplatform")


async def test_after_closing(database_url: str) -> None:
    database = await Database.open(database_url)
    await database.close()
    with pytest.raises(Unavailable):
        await by_pool(database, "SELECT 1")


@pytest.mark.parametrize(("ask", "error"), [(by_pool, asyncpg.PostgresError), (by_session, DBAPIError)])
async def test_our_own_mistakes_stay_visible(database: Database, ask: object, error: type[Exception]) -> None:
    assert callable(ask)
    with pytest.raises(error):
        await ask(database, "SELECT nonsense")


async def test_a_conflict_is_told_by_the_name_of_its_constraint(database: Database) -> None:
    insert = "INSERT INTO signing_keys (kid, public_pem) VALUES ('twice', ''), ('twice', '')"
    with pytest.raises(Rejected), conflict("taken", constraint="signing_keys_pkey"):
        await by_pool(database, insert)
    with pytest.raises(Rejected), conflict("taken"):
        await by_session(database, insert)
    with pytest.raises(asyncpg.UniqueViolationError), conflict("taken", constraint="another"):
        await by_pool(database, insert)


class TestMakingAnOrganization:
    @staticmethod
    async def create(database: Database, organization_id: str, make_stream: object) -> Organization:
        return await organizations.create(
            database,
            organization_id,
            "A Corp",
            3,
            rule=Rule("default", organization_id, "R", "temp*", Threshold(">", 80.0)),
            channel=LOG_CHANNEL,
            make_stream=make_stream,  # type: ignore[arg-type]
        )

    async def test_it_is_seen_only_after_its_stream_exists(self, database: Database) -> None:
        organization_id = uuid.uuid4().hex

        async def make_stream(made: Organization) -> None:
            assert made.id == organization_id
            assert made.partitions == 3
            assert (await database.pool.fetchval("SELECT count(*) FROM organizations WHERE id = $1", made.id)) == 0

        made = await self.create(database, organization_id, make_stream)
        numbers = await database.pool.fetch("SELECT number, position FROM partitions WHERE epoch = $1", made.epoch)
        assert sorted(numbers) == [(0, 0), (1, 0), (2, 0)]

    async def test_without_a_stream_nothing_is_made(self, database: Database) -> None:
        organization_id = uuid.uuid4().hex

        async def make_stream(_: Organization) -> None:
            raise Unavailable("JetStream is away")

        with pytest.raises(Unavailable, match="JetStream"):
            await self.create(database, organization_id, make_stream)
        assert await database.pool.fetchval("SELECT count(*) FROM organizations WHERE id = $1", organization_id) == 0

    async def test_a_stream_that_takes_too_long(self, database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(organizations, "STREAM_TIMEOUT_S", 0.05)
        organization_id = uuid.uuid4().hex

        async def make_stream(_: Organization) -> None:
            await asyncio.sleep(30)

        with pytest.raises(Unavailable, match="in time"):
            await self.create(database, organization_id, make_stream)
        assert await database.pool.fetchval("SELECT count(*) FROM organizations WHERE id = $1", organization_id) == 0

    async def test_of_two_at_once_one_is_made(self, database: Database) -> None:
        organization_id = uuid.uuid4().hex
        made: list[int] = []

        async def make_stream(organization: Organization) -> None:
            made.append(organization.epoch)
            await asyncio.sleep(0.1)

        results = await asyncio.gather(
            self.create(database, organization_id, make_stream),
            self.create(database, organization_id, make_stream),
            return_exceptions=True,
        )
        assert sorted(type(result).__name__ for result in results) == ["Organization", "Rejected"]
        assert len(made) == 1

"""The roll of a role in PostgreSQL: who is alive by its clock, and that coming and going is told at once."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator

import pytest

from iotplatform.adapters.postgres.changes import EVERYTHING, Change, ChangeFeed
from iotplatform.adapters.postgres.connection import Database
from iotplatform.adapters.postgres.members import concern_members, roll_of
from iotplatform.errors import Unavailable
from iotplatform.runtime.membership import Roll


@pytest.fixture
async def database(database_url: str) -> AsyncIterator[Database]:
    opened = await Database.open(database_url)
    yield opened
    await opened.close()


@pytest.fixture
def role() -> str:
    return f"role-{uuid.uuid4().hex}"


@pytest.fixture
def roll(database: Database, role: str) -> Roll:
    return roll_of(role, database)


async def age(database: Database, role: str, member: str, seconds: float) -> None:
    query = "UPDATE members SET seen_at = seen_at - $3 * interval '1 s' WHERE role = $1 AND id = $2"
    await database.pool.execute(query, role, member, seconds)


async def test_who_was_heard_of_lately_is_alive(database: Database, roll: Roll, role: str) -> None:
    a = await roll.beat("a", None)
    assert (a.live, a.listed, a.superseded) == (frozenset(), frozenset(), False)
    b = await roll.beat("b", None)
    assert b.live == {"a"}
    assert (await roll.beat("a", a.since)).live == {"a", "b"}
    await age(database, role, "b", 7)
    silent = await roll.beat("a", a.since)
    assert (silent.since, silent.live, silent.listed) == (a.since, {"a"}, {"a", "b"})
    # Back again: it is told that it was missed.
    assert "b" not in (await roll.beat("b", b.since)).live
    assert (await roll.beat("a", a.since)).live == {"a", "b"}
    await roll.leave("b")
    assert (await roll.beat("a", a.since)).listed == {"a"}


async def test_roles_do_not_mix(database: Database, roll: Roll) -> None:
    await roll.beat("a", None)
    assert (await roll_of(f"role-{uuid.uuid4().hex}", database).beat("b", None)).listed == frozenset()


async def test_another_process_under_the_same_id_is_noticed(roll: Roll) -> None:
    first = await roll.beat("a", None)
    second = await roll.beat("a", None)
    assert second.live == {"a"}
    assert (await roll.beat("a", first.since)).superseded
    assert not (await roll.beat("a", second.since)).superseded


async def test_a_row_that_was_pruned_is_written_anew(database: Database, roll: Roll, role: str) -> None:
    a = await roll.beat("a", None)
    await age(database, role, "a", 3600)
    await roll.beat("b", None)
    assert await database.pool.fetchval("SELECT count(*) FROM members WHERE role = $1", role) == 1
    again = await roll.beat("a", a.since)
    assert not again.superseded
    assert not (await roll.beat("a", again.since)).superseded


async def test_coming_and_going_is_told_and_staying_is_not(
    database: Database, database_url: str, roll: Roll, role: str
) -> None:
    told: asyncio.Queue[Change] = asyncio.Queue()
    listening = asyncio.Event()

    async def hear(changes: list[Change]) -> None:
        if EVERYTHING in changes:
            listening.set()
        for change in changes:
            if concern_members([change], role) and change != EVERYTHING:
                told.put_nowait(change)

    feed = ChangeFeed(database_url, poll_s=3600)
    feed.register(hear)
    running = asyncio.get_running_loop().create_task(feed.run())
    try:
        async with asyncio.timeout(20):
            await listening.wait()
            a = await roll.beat("a", None)
            assert (await told.get()).key == role
            await roll.beat("a", a.since)
            await age(database, role, "a", 7)
            # Back from the dead, and gone: nothing was told of the beat in between.
            await roll.beat("a", a.since)
            await told.get()
            await roll.leave("a")
            await told.get()
            await roll.leave("a")
            await roll.beat("b", None)
            await told.get()
            assert told.empty()
    finally:
        running.cancel()


async def test_a_database_that_is_away(database_url: str) -> None:
    own = await Database.open(database_url)
    roll = roll_of("analysis", own)
    await own.close()
    for attempt in (roll.beat("a", None), roll.leave("a")):
        with pytest.raises(Unavailable):
            await attempt


def test_what_concerns_members() -> None:
    assert concern_members([Change("member", None, "analysis")], "analysis")
    assert concern_members([EVERYTHING], "analysis")
    assert not concern_members([Change("member", None, "persistence"), Change("rule", 1, "analysis")], "analysis")

"""Whatever is changed in the database reaches a process within two seconds, and nothing is missed."""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import AsyncIterator, Callable

import asyncpg
import pytest

from iotplatform.adapters.postgres.changes import EVERYTHING, Change, ChangeFeed
from iotplatform.errors import Unavailable


class Listener:
    """Keeps what a feed told."""

    def __init__(self, feed: ChangeFeed) -> None:
        self.feed = feed
        self.changes: list[Change] = []
        self.failures = 0
        feed.register(self._told)
        self._task: asyncio.Task[None] | None = None

    async def _told(self, changes: list[Change]) -> None:
        if self.failures:
            self.failures -= 1
            raise Unavailable("not now")
        self.changes += changes

    async def start(self) -> None:
        self._task = asyncio.get_running_loop().create_task(self.feed.run())
        await self.until(lambda: EVERYTHING in self.changes)
        self.changes.clear()

    async def stop(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])

    async def until(self, holds: Callable[[], bool], within_s: float = 5.0) -> float:
        started = time.monotonic()
        while not holds():
            assert time.monotonic() - started < within_s, self.changes
            await asyncio.sleep(0.005)
        return time.monotonic() - started

    @property
    def kids(self) -> list[str]:
        return [change.key for change in self.changes if change.kind == "signing_key"]


@pytest.fixture
async def listener(database_url: str) -> AsyncIterator[Listener]:
    made = Listener(ChangeFeed(database_url, poll_s=0.2))
    yield made
    await made.stop()


@pytest.fixture
async def connection(database_url: str) -> AsyncIterator[asyncpg.Connection[asyncpg.Record]]:
    opened = await asyncpg.connect(database_url)
    yield opened
    # They are no keys, and the database is shared.
    await opened.execute("DELETE FROM signing_keys WHERE public_pem = ''")
    await opened.close()


async def change(connection: asyncpg.Connection[asyncpg.Record]) -> str:
    """Some change; its key."""
    kid = f"kid-{uuid.uuid4().hex}"
    await connection.execute("INSERT INTO signing_keys (kid, public_pem) VALUES ($1, '')", kid)
    return kid


async def test_a_change_arrives_at_once(listener: Listener, connection: asyncpg.Connection[asyncpg.Record]) -> None:
    await listener.start()
    kid = await change(connection)
    assert await listener.until(lambda: kid in listener.kids) < 1.0
    assert Change("signing_key", None, kid) in listener.changes


async def test_by_notification_alone(database_url: str, connection: asyncpg.Connection[asyncpg.Record]) -> None:
    listener = Listener(ChangeFeed(database_url, poll_s=60))
    await listener.start()
    kid = await change(connection)
    await listener.until(lambda: kid in listener.kids, 2.0)
    await listener.stop()


async def test_by_polling_alone(listener: Listener, connection: asyncpg.Connection[asyncpg.Record]) -> None:
    await listener.start()
    kid = f"kid-{uuid.uuid4().hex}"
    # As a trigger would, without its notification.
    await connection.execute("INSERT INTO changes (kind, key) VALUES ('signing_key', $1)", kid)
    await listener.until(lambda: kid in listener.kids, 2.0)


async def test_a_transaction_that_commits_late_is_not_missed(
    listener: Listener, connection: asyncpg.Connection[asyncpg.Record], database_url: str
) -> None:
    await listener.start()
    async with connection.transaction():
        late = await change(connection)
        other = await asyncpg.connect(database_url)
        for _ in range(3):
            early = await change(other)
            await listener.until(lambda early=early: early in listener.kids)  # type: ignore[misc]
            await asyncio.sleep(0.3)
        await other.close()
        assert late not in listener.kids
    await listener.until(lambda: late in listener.kids, 2.0)


async def test_a_change_is_told_once_even_while_a_transaction_stays_open(
    listener: Listener, connection: asyncpg.Connection[asyncpg.Record], database_url: str
) -> None:
    await listener.start()
    async with connection.transaction():
        await change(connection)
        other = await asyncpg.connect(database_url)
        kid = await change(other)
        await listener.until(lambda: kid in listener.kids)
        await asyncio.sleep(0.7)
        await change(other)
        await other.close()
    assert listener.kids.count(kid) == 1


async def test_a_thousand_changes_of_one_transaction(
    listener: Listener, connection: asyncpg.Connection[asyncpg.Record]
) -> None:
    await listener.start()
    prefix = uuid.uuid4().hex
    await connection.execute(
        "INSERT INTO signing_keys (kid, public_pem) SELECT $1 || n, '' FROM generate_series(1, 1000) n", prefix
    )
    await listener.until(lambda: sum(key.startswith(prefix) for key in listener.kids) == 1_000)


async def test_a_listener_that_can_not_now_gets_it_again(
    listener: Listener, connection: asyncpg.Connection[asyncpg.Record]
) -> None:
    await listener.start()
    listener.failures = 2
    kid = await change(connection)
    await listener.until(lambda: kid in listener.kids)
    assert EVERYTHING not in listener.changes


async def test_the_connection_is_made_anew_and_nothing_is_missed(
    listener: Listener, connection: asyncpg.Connection[asyncpg.Record]
) -> None:
    await listener.start()
    for _ in range(3):
        await connection.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            " WHERE query LIKE '%pg_snapshot_xmin%' AND pid <> pg_backend_pid() AND datname = current_database()"
        )
        kid = await change(connection)
        await listener.until(lambda kid=kid: kid in listener.kids)  # type: ignore[misc]
    assert EVERYTHING not in listener.changes


async def test_who_was_away_for_long_is_told_that_everything_may_have_changed(
    listener: Listener, monkeypatch: pytest.MonkeyPatch
) -> None:
    await listener.start()
    monkeypatch.setattr("iotplatform.adapters.postgres.changes.TRUSTED_S", 0.0)
    await listener.until(lambda: EVERYTHING in listener.changes)


async def test_old_rows_are_pruned(
    listener: Listener, connection: asyncpg.Connection[asyncpg.Record], monkeypatch: pytest.MonkeyPatch
) -> None:
    old, new = uuid.uuid4().hex, uuid.uuid4().hex
    await connection.execute("INSERT INTO changes (kind, key, at) VALUES ('x', $1, now() - interval '61 min')", old)
    await connection.execute("INSERT INTO changes (kind, key, at) VALUES ('x', $1, now() - interval '59 min')", new)
    monkeypatch.setattr("iotplatform.adapters.postgres.changes.PRUNE_EVERY_S", 0.0)
    await listener.start()
    await asyncio.sleep(0.5)
    kept = {row["key"] for row in await connection.fetch("SELECT key FROM changes WHERE kind = 'x'")}
    assert new in kept
    assert old not in kept

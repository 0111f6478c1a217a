"""What PostgreSQL and Redis say of themselves, and pools of themselves."""

from __future__ import annotations

import asyncio

import pytest

from iotplatform.adapters.postgres.connection import Database
from iotplatform.adapters.postgres.server_state import look_at_deliveries, look_at_server
from iotplatform.adapters.redis.connection import RedisConnection
from iotplatform.adapters.redis.server_state import look_at_server as look_at_redis
from iotplatform.errors import Unavailable


@pytest.fixture
async def database(database_url):
    opened = await Database.open(database_url, pool_size=3)
    yield opened
    await opened.close()


async def test_postgresql(database):
    async with database.pool.acquire() as connection, connection.transaction():
        await connection.fetchval("SELECT 1")
        await asyncio.sleep(0.05)
        state = await look_at_server(database)
    assert 1 <= state.connections <= state.connection_limit
    assert state.bytes > 1_000_000
    assert state.commits > 0
    assert state.blocks_from_memory > 0
    assert state.oldest_transaction_s >= 0.05


async def test_deliveries_that_wait(database):
    await database.pool.execute("UPDATE deliveries SET state = 'failed' WHERE state = 'pending'")
    assert (await look_at_deliveries(database)).waiting == 0
    assert (await look_at_deliveries(database)).overdue_s == 0


async def test_redis(servers):
    redis = RedisConnection(servers.redis)
    try:
        await redis.increment([("watched", "field", 1)])
        state = await look_at_redis(redis)
        assert state.memory > 100_000
        assert state.memory_limit is None
        assert state.keys >= 1
        assert state.clients >= 1
        assert state.commands >= 1
        assert state.append_ok
    finally:
        await redis.unlink([b"watched"])
        await redis.close()


async def test_a_server_that_is_away(tmp_path):
    redis = RedisConnection(f"unix://{tmp_path}/none.sock")
    with pytest.raises(Unavailable):
        await look_at_redis(redis)
    await redis.close()


async def test_pools(database, servers):
    before = database.pool_state()
    async with database.pool.acquire(), database.engine.connect():
        state = database.pool_state()
        assert (state.used, state.most) == (before.used + 1, 3)
        assert database.session_state().used == 1
    assert database.pool_state().idle >= 1
    assert database.session_state() == (0, 1, 3)
    redis = RedisConnection(servers.redis)
    assert redis.pool_state() == (0, 0, 16)
    await redis.ping()
    assert redis.pool_state() == (0, 1, 16)
    await redis.close()

"""The session's Redis, and epochs that nobody else uses."""

from __future__ import annotations

import itertools

import pytest

from iotplatform.adapters.redis.connection import RedisConnection

_epochs = itertools.count(900_000)


@pytest.fixture
async def redis(servers):
    connection = RedisConnection(servers.redis)
    yield connection
    await connection.close()


@pytest.fixture
def epoch():
    return next(_epochs)

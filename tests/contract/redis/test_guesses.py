"""Guesses at passwords are counted by all processes together, and by each on its own while Redis is away."""

from __future__ import annotations

import asyncio
import uuid

import pytest
from structlog.testing import capture_logs

from iotplatform.adapters.redis.connection import RedisConnection
from iotplatform.adapters.redis.leases import TokenLeases
from iotplatform.errors import Rejected
from iotplatform.roles.management.entrance import BY_BOTH, Guesses


def someone() -> str:
    return f"{uuid.uuid4().hex}@example.org"


def address() -> str:
    return str(uuid.uuid4())


async def tries(guesses: list[Guesses], account: str, address: str, most: int = 20) -> int:
    """How often somebody may try, each time at another process."""
    for number in range(most):
        if not await may(guesses[number % len(guesses)], account, address):
            return number
    return most


async def may(guesses: Guesses, account: str, address: str) -> bool:
    try:
        await guesses.count(account, address)
    except Rejected as refused:
        return not (refused.kind == "over_quota" and 0 < (refused.retry_after_s or 0) <= BY_BOTH[1])
    return True


@pytest.fixture
def three(redis: RedisConnection) -> list[Guesses]:
    return [Guesses(TokenLeases(redis, "iot-guesses")) for _ in range(3)]


async def test_three_processes_allow_as_many_as_one(three: list[Guesses]) -> None:
    account, here = someone(), address()
    assert await tries(three, account, here) == BY_BOTH[0]
    # Another account, or another address, is not meant.
    await three[0].count(someone(), here)
    await three[1].count(account, address())


async def test_who_knew_it_may_go_on(three: list[Guesses]) -> None:
    account, here = someone(), address()
    assert await tries(three, account, here, BY_BOTH[0]) == BY_BOTH[0]
    await three[2].succeeded(account, here)
    await three[2].count(account, here)


async def test_without_redis_each_counts_on_its_own() -> None:
    away = RedisConnection("redis://127.0.0.1:1/0")
    guesses = [Guesses(TokenLeases(away, "iot-guesses"))]
    with capture_logs() as lines:
        assert await tries(guesses, someone(), address()) == BY_BOTH[0]
    assert {line["event"] for line in lines} == {"access.without_redis"}
    await away.close()


async def test_at_once_no_more_get_through(three: list[Guesses]) -> None:
    account, here = someone(), address()

    passed = await asyncio.gather(*(may(three[number % 3], account, here) for number in range(30)))
    assert sum(passed) == BY_BOTH[0]

"""Redis grants as TokenBuckets does, to many processes at once, and forgets what is full again."""

from __future__ import annotations

import asyncio
import time
import uuid

import pytest
from redis.asyncio import Redis

from iotplatform.adapters.embedded import ServerUrls
from iotplatform.adapters.redis.connection import RedisConnection
from iotplatform.adapters.redis.leases import Ask, TokenLeases
from iotplatform.domain.limit import Grant, parse_rates


@pytest.fixture
def subject() -> str:
    return uuid.uuid4().hex


def ask(subject: str, rates: str, want: int, need: int = 0, back: int = 0) -> Ask:
    return Ask(7, "readings", subject, parse_rates(rates), want, need, back)


async def test_a_stack_of_buckets(redis: RedisConnection, subject: str) -> None:
    leases = TokenLeases(redis)
    [first] = await leases.grant([ask(subject, "100:1,150:3600", 100)])
    assert first == Grant(100, 0.0, 0.0)
    [second] = await leases.grant([ask(subject, "100:1,150:3600", 100, 100)])
    # The first bucket gave out all it had; the second one still has 50.
    assert second.tokens < 50
    assert 0 < second.wait_s <= 50 * 24
    [back] = await leases.grant([ask(subject, "100:1,150:3600", 0, 0, 100)])
    assert back.left > 0.6


async def test_two_processes_share_what_there_is(redis: RedisConnection, subject: str) -> None:
    leases = [TokenLeases(redis) for _ in range(8)]
    found = await asyncio.gather(*(each.grant([ask(subject, "1000:3600", 300, 1)]) for each in leases))
    assert sum(grant.tokens for [grant] in found) == 1000
    assert [grant.wait_s > 0 for [grant] in found].count(True) == 4


async def test_a_new_rate_begins_with_a_full_bucket(redis: RedisConnection, subject: str) -> None:
    leases = TokenLeases(redis)
    await leases.grant([ask(subject, "10:3600", 10)])
    [grant] = await leases.grant([ask(subject, "20:3600", 20)])
    assert grant.tokens == 20


async def test_many_asks_travel_together(redis: RedisConnection, subject: str) -> None:
    asks = [ask(f"{subject}-{number}", "1:3600", 1, 1) for number in range(500)]
    started = time.monotonic()
    assert [grant.tokens for grant in await TokenLeases(redis).grant(asks)] == [1] * 500
    assert [grant.tokens for grant in await TokenLeases(redis).grant(asks)] == [0] * 500
    assert time.monotonic() - started < 5


async def test_what_is_full_again_is_forgotten(redis: RedisConnection, subject: str, servers: ServerUrls) -> None:
    await TokenLeases(redis).grant([ask(subject, "5:2,9:60", 1)])
    client = Redis.from_url(servers.redis)
    assert 59 <= await client.ttl(f"iot:7:limit:readings:{subject}") <= 61
    await client.aclose()

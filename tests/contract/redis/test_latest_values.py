"""The latest values in a real Redis: complete only when everything that may have been lost is there again."""

from __future__ import annotations

import secrets

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from iotplatform.adapters.redis.latest import LatestValues


@pytest.fixture
def latest(redis):
    return LatestValues(redis)


async def test_an_incomplete_hash_answers_nothing(latest, epoch):
    await latest.keep({epoch: {("m", "temp"): (5, 1, 20.0)}})
    assert await latest.page(epoch, [], None, 10) is None
    since = await latest.incomplete_since(epoch, 100)
    assert since == 100
    assert await latest.incomplete_since(epoch, 200) == 100
    await latest.mark_complete(epoch, since)
    assert await latest.page(epoch, [], None, 10) == [("m", "temp", 20.0, 5)]


async def test_emptied_while_it_is_filled_it_is_not_complete(latest, redis, epoch):
    since = await latest.incomplete_since(epoch, 100)
    await redis._redis.delete(f"iot:{epoch}:latest:incomplete_since")
    await latest.mark_complete(epoch, since)
    assert not await latest.is_complete(epoch)
    # Nor when somebody has begun anew.
    assert await latest.incomplete_since(epoch, 300) == 300
    await latest.mark_complete(epoch, since)
    assert not await latest.is_complete(epoch)


async def test_what_is_larger_by_time_and_position_stays(latest, epoch):
    await latest.mark_complete(epoch, await latest.incomplete_since(epoch, 1))
    for at, position, value in ((5, 10, 1.0), (4, 11, 2.0), (5, 9, 3.0), (5, 10, 4.0), (5, 12, 5.0)):
        await latest.keep({epoch: {("m", "temp"): (at, position, value)}})
    assert await latest.page(epoch, ["m"], None, 10) == [("m", "temp", 5.0, 5)]


async def complete(latest, epoch):
    await latest.mark_complete(epoch, await latest.incomplete_since(epoch, 1))


NAMES = st.text("aB-_09", min_size=1, max_size=3)
SENSORS = st.text(st.characters(exclude_categories=["Cc", "Cs"]), min_size=1, max_size=3)
SERIES = st.tuples(NAMES, SENSORS)


# Each example has an epoch of its own.
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=60)
@given(
    keys=st.sets(SERIES, max_size=12),
    device_ids=st.lists(NAMES, max_size=3),
    after=st.none() | SERIES,
    limit=st.integers(1, 5),
)
async def test_a_page_is_what_comes_next_in_the_order_of_the_text(redis, keys, device_ids, after, limit):
    latest, epoch = LatestValues(redis), secrets.randbits(40)
    await complete(latest, epoch)
    await latest.keep({epoch: dict.fromkeys(keys, (1, 1, 1.0))})
    wanted = [key for key in sorted(keys) if key[0] in device_ids or not device_ids]
    wanted = [key for key in wanted if after is None or key > after][:limit]
    assert await latest.page(epoch, device_ids, after, limit) == [(*key, 1.0, 1) for key in wanted]


async def test_what_was_dropped_is_on_no_page(latest, epoch):
    await complete(latest, epoch)
    await latest.keep({epoch: {("m", sensor): (1, position, 1.0) for position, sensor in enumerate("abc")}})
    await latest.drop(epoch, "m", ["a", "b", "c"], 1)
    assert await latest.page(epoch, [], None, 10) == [("m", "c", 1.0, 1)]


async def test_a_hash_without_an_order_is_filled_like_one_that_was_lost(latest, redis, epoch):
    """As a version has written it that knew of no order, before this one or beside it."""
    await latest.keep({epoch: {("m", "a"): (1, 1, 1.0), ("m", "b"): (2, 2, 2.0)}})
    await complete(latest, epoch)
    packed = await redis._redis.hget(f"iot:{epoch}:latest", "m\0a")
    await redis._redis.hset(f"iot:{epoch}:latest", "m\0c", packed)
    assert await latest.page(epoch, [], None, 10) is None
    assert not await latest.is_complete(epoch)
    await latest.keep({epoch: {("m", sensor): (1, 1, 1.0) for sensor in "abc"}})
    assert await latest.is_complete(epoch)
    assert [found[1:3] for found in await latest.page(epoch, [], None, 10)] == [("a", 1.0), ("b", 2.0), ("c", 1.0)]


async def test_a_cursor_that_nobody_has_made_is_no_fault(latest, epoch):
    await complete(latest, epoch)
    await latest.keep({epoch: {("m", "a"): (1, 1, 1.0)}})
    for after in (("", ""), ("\ud800", "x"), ("m", "\xff"), ("(", "["), ("+", "-")):
        assert await latest.page(epoch, [], after, 10) == ([("m", "a", 1.0, 1)] if after < ("m", "a") else [])

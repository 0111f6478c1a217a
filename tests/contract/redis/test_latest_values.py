"""The latest values in a real Redis: complete only when everything that may have been lost is there again."""

from __future__ import annotations

import pytest

from iotplatform.adapters.redis.latest import LatestValues


@pytest.fixture
def latest(redis):
    return LatestValues(redis)


async def test_an_incomplete_hash_answers_nothing(latest, epoch):
    await latest.keep({epoch: {("m", "temp"): (5, 1, 20.0)}})
    assert await latest.read(epoch, []) is None
    since = await latest.incomplete_since(epoch, 100)
    assert since == 100
    assert await latest.incomplete_since(epoch, 200) == 100
    await latest.mark_complete(epoch, since)
    assert await latest.read(epoch, []) == [("m", "temp", 20.0, 5)]


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
    assert await latest.read(epoch, ["m"]) == [("m", "temp", 5.0, 5)]

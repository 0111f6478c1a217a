"""A partition's head in a real Redis: who holds it, where it stands, and what is suspected."""

from __future__ import annotations

import pytest

from iotplatform.adapters.redis.analysis import AnalysisStore, Commit, Fenced
from iotplatform.domain.caution import CAREFUL_BLOCKS, MAX_TRIES, Tries, careful_blocks


@pytest.fixture
def store(redis):
    return AnalysisStore(redis)


async def lose(redis, epoch):
    """What Redis has of an epoch, as if it had been emptied."""
    client = redis._redis
    async for key in client.scan_iter(f"iot:{epoch}:*"):
        await client.delete(key)


async def commit(store, hold, before, after, states=None, transitions=()):
    return (await store.commit([Commit(hold, before, after, states or {}, transitions)]))[0]


async def test_a_partition_without_a_head_has_no_position(store, epoch):
    hold = await store.acquire(epoch, 0, counted=True)
    assert (hold.position, hold.outbox, hold.tries) == (None, [], Tries(1, 0, 0))
    assert await commit(store, hold, 0, 5, {b"s": b"x"}, [b"t"]) is None
    again = await store.acquire(epoch, 0, counted=False)
    assert (again.position, again.outbox) == (5, [b"t"])
    assert await store.load([(again, [b"s", b"other"])]) == [[b"x", None]]


async def test_whoever_lost_the_partition_changes_nothing(store, epoch):
    old = await store.acquire(epoch, 0, counted=True)
    new = await store.acquire(epoch, 0, counted=True)
    assert isinstance(await commit(store, old, 0, 5), Fenced)
    with pytest.raises(Fenced):
        await store.suspect(old, 3)
    with pytest.raises(Fenced):
        await store.restore(old, {b"s": b"x"}, 5)
    await store.spare(old, 3)
    await store.count_failure(old)
    await store.let_go([old])
    assert await commit(store, new, 0, 5) is None
    assert (await store.acquire(epoch, 0, counted=False)).tries == Tries(1, 0, 0)


async def test_a_commit_after_the_loss_is_fenced_and_writes_nothing(store, redis, epoch):
    hold = await store.acquire(epoch, 0, counted=True)
    await commit(store, hold, 0, 5)
    await lose(redis, epoch)
    assert isinstance(await commit(store, hold, 5, 6, {b"s": b"x"}, [b"t"]), Fenced)
    found = await store.acquire(epoch, 0, counted=False)
    assert (found.position, found.outbox) == (None, [])
    assert await store.load([(found, [b"s"])]) == [[None]]


async def test_restoring_replaces_everything(store, epoch):
    hold = await store.acquire(epoch, 0, counted=True)
    await commit(store, hold, 0, 5, {b"stale": b"x"}, [b"stale"])
    states = {b"s%d" % number: b"%d" % number for number in range(4_500)}
    await store.restore(hold, states, 9)
    again = await store.acquire(epoch, 0, counted=False)
    assert (again.position, again.outbox) == (9, [])
    assert await store.load([(again, [*states, b"stale"])]) == [[*states.values(), None]]


async def test_without_states_the_position_is_restored_all_the_same(store, epoch):
    hold = await store.acquire(epoch, 0, counted=True)
    await store.restore(hold, {}, 9)
    assert (await store.acquire(epoch, 0, counted=False)).position == 9


async def test_holders_are_counted_until_the_position_moves(store, epoch):
    for holders in (1, 2, 3, 4):
        hold = await store.acquire(epoch, 0, counted=True)
        assert hold.tries.holders == holders
        assert (careful_blocks(hold.tries, 0) > 0) == (holders > MAX_TRIES)
    assert (await store.acquire(epoch, 0, counted=False)).tries.holders == 4
    hold = await store.acquire(epoch, 0, counted=True)
    await commit(store, hold, 0, 1)
    # Now one has ended after the position has moved.
    assert (await store.acquire(epoch, 0, counted=True)).tries.holders == 2


async def test_letting_go_in_order_counts_for_nothing(store, epoch):
    for _ in range(5):
        hold = await store.acquire(epoch, 0, counted=True)
        assert hold.tries.holders == 1
        await store.let_go([hold])
        assert isinstance(await commit(store, hold, 0, 1), Fenced)


async def test_failures_count_like_holders_that_ended(store, epoch):
    hold = await store.acquire(epoch, 0, counted=True)
    for _ in range(MAX_TRIES):
        await store.count_failure(hold)
    assert careful_blocks((await store.acquire(epoch, 0, counted=False)).tries, 0) == CAREFUL_BLOCKS


async def test_a_suspect_is_counted_by_itself(store, epoch):
    hold = await store.acquire(epoch, 0, counted=True)
    assert [await store.suspect(hold, 7) for _ in range(MAX_TRIES + 2)] == [0, 1, 2, 3, 3]
    # Another block is another suspect.
    assert [await store.suspect(hold, 8), await store.suspect(hold, 8)] == [0, 1]
    hold = await store.acquire(epoch, 0, counted=False)
    assert hold.tries == Tries(1, 8, 2)
    assert careful_blocks(hold.tries, 7) > 0
    assert careful_blocks(hold.tries, 8) == 0
    await commit(store, hold, 0, 8)
    assert (await store.acquire(epoch, 0, counted=False)).tries == Tries(1, 0, 0)


async def test_a_spared_block_can_be_tried_for_ever(store, epoch):
    hold = await store.acquire(epoch, 0, counted=True)
    for _ in range(10):
        assert await store.suspect(hold, 7) == 0
        await store.spare(hold, 7)

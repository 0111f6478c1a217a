"""Tries of persistence in the row that holds the position."""

from __future__ import annotations

import asyncio
import contextlib
import uuid

import pytest

from iotplatform.adapters.nats.partitions import Partition
from iotplatform.adapters.postgres.connection import Database
from iotplatform.adapters.postgres.partition_tries import PartitionTries
from iotplatform.adapters.postgres.persistence import PartitionWork, PositionMoved, ReadingStore
from iotplatform.domain.caution import MAX_TRIES, Tries, careful_blocks
from iotplatform.domain.organization import Organization
from iotplatform.errors import Unavailable
from iotplatform.roles.persistence.suspects import Suspects


@pytest.fixture(scope="module")
async def database(database_url):
    opened = await Database.open(database_url)
    yield opened
    await opened.close()


@pytest.fixture
async def organization(database):
    name = f"org-{uuid.uuid4().hex}"
    epoch = await database.pool.fetchval(
        "INSERT INTO organizations (id, name, partitions) VALUES ($1, $1, 1) RETURNING epoch", name
    )
    await database.pool.execute("INSERT INTO partitions (epoch, number) VALUES ($1, 0)", epoch)
    yield Organization(name, epoch, "A Corp", 1, 0)
    await database.pool.execute("DELETE FROM organizations WHERE epoch = $1", epoch)


@pytest.fixture
def tries(database):
    return PartitionTries(database)


@pytest.fixture
async def store(database_url):
    opened = await ReadingStore.open(database_url)
    yield opened
    await opened.close()


async def take(tries, organization, *, counted=True):
    return (await tries.acquire(organization.epoch, 0, counted=counted)).tries


async def test_holders_are_counted_until_the_position_moves(tries, store, organization):
    for holders in (1, 2, 3, 4):
        found = await take(tries, organization)
        assert found == Tries(holders, 0, 0)
        assert (careful_blocks(found, 0) > 0) == (holders > MAX_TRIES)
    assert await take(tries, organization, counted=False) == Tries(4, 0, 0)
    await tries.suspect(organization.epoch, 0, 0, 7)
    await store.store([PartitionWork(organization.epoch, 0, 0, 7)])
    assert await take(tries, organization) == Tries(2, 0, 0)


async def test_letting_go_in_order_counts_for_nothing(tries, organization):
    for _ in range(5):
        assert await take(tries, organization) == Tries(1, 0, 0)
        await tries.let_go([(organization.epoch, 0)])


async def test_a_suspect_is_counted_by_itself_and_can_be_spared(tries, organization):
    epoch = organization.epoch
    assert [await tries.suspect(epoch, 0, 0, 7) for _ in range(MAX_TRIES + 2)] == [0, 1, 2, 3, 3]
    assert await tries.suspect(epoch, 0, 0, 8) == 0
    for _ in range(5):
        await tries.spare(epoch, 0, 8)
        assert await tries.suspect(epoch, 0, 0, 8) == 0
    assert await take(tries, organization) == Tries(1, 8, 1)


async def test_whoever_lost_the_partition_suspects_nothing(tries, store, organization):
    await store.store([PartitionWork(organization.epoch, 0, 0, 5)])
    with pytest.raises(PositionMoved):
        await tries.suspect(organization.epoch, 0, 4, 6)
    assert await tries.acquire(organization.epoch, 99, counted=True) is None


async def tried_alone(suspects, partition, failure):
    """How often the block was taken up alone before this time, which ends in `failure`."""
    seen = []
    with contextlib.suppress(type(failure)):
        async with suspects.alone(partition.key, 0, 7) as before:
            seen.append(before)
            raise failure
    return seen[0]


class TestSuspects:
    @pytest.fixture
    def partition(self, organization):
        return Partition(organization, 0)

    @pytest.fixture
    def suspects(self, tries):
        return Suspects(tries, asyncio.Lock())

    async def test_an_outage_is_not_counted_and_a_failure_is(self, suspects, partition):
        assert await suspects.acquire(partition) == 0
        for _ in range(2 * MAX_TRIES):
            assert await tried_alone(suspects, partition, Unavailable("a server is away")) == 0
        for number in range(MAX_TRIES):
            assert await tried_alone(suspects, partition, RuntimeError("a mistake of ours")) == number
        async with suspects.alone(partition.key, 0, 7) as before:
            assert before == MAX_TRIES

    async def test_a_process_that_ended_leaves_a_suspect(self, suspects, tries, partition):
        await suspects.acquire(partition)
        assert await tried_alone(suspects, partition, asyncio.CancelledError()) == 0
        again = Suspects(tries, asyncio.Lock())
        await again.acquire(partition)
        assert again.is_careful(partition.key)
        # In order it leaves none.
        await again.let_go()
        await suspects.let_go()
        third = Suspects(tries, asyncio.Lock())
        await third.acquire(partition)
        assert not third.is_careful(partition.key)

    async def test_resets_within_a_process_count_for_nothing(self, suspects, partition):
        for _ in range(3 * MAX_TRIES):
            await suspects.acquire(partition)
        assert not suspects.is_careful(partition.key)
        for _ in range(MAX_TRIES):
            await suspects.failed(partition.key)
        await suspects.acquire(partition)
        assert suspects.is_careful(partition.key)

"""What is kept of a partition is read once more, and its readers notice nothing of it."""

from __future__ import annotations

import asyncio

import pytest

from iotplatform.adapters.nats.api import ApiError
from iotplatform.adapters.nats.kept_stream import FETCH_MESSAGES, KeptStream
from iotplatform.adapters.nats.subjects import readings_subject
from tests.contract.nats.conftest import new_organization
from tests.contract.nats.test_readers import Role


@pytest.fixture
def kept(client):
    return KeptStream(client.connection)


async def replayed(kept, organization, partition=0, *, since=0, until):
    return [piece async for piece in kept.replay(organization, partition, since=since, until=until)]


def sequences(pieces):
    return [delivery.sequence for piece in pieces for delivery in piece]


async def test_everything_between_two_sequences_in_bounded_pieces(client, organization, kept):
    count = 2 * FETCH_MESSAGES + 50
    await client.fill(organization, count)
    pieces = await replayed(kept, organization, since=3, until=count - 2)
    assert sequences(pieces) == list(range(3, count - 1))
    assert [int(delivery.data) for delivery in pieces[0]] == list(range(2, 2 + len(pieces[0])))
    assert max(map(len, pieces)) <= FETCH_MESSAGES


async def test_up_to_the_end_and_beyond(client, organization, kept):
    await client.fill(organization, FETCH_MESSAGES)
    for until in (FETCH_MESSAGES, 10 * FETCH_MESSAGES):
        assert sequences(await replayed(kept, organization, until=until)) == list(range(1, FETCH_MESSAGES + 1))


async def test_only_its_partition_of_all_sources(client, kept):
    organization = await client.organization(partitions=2)
    mine = await client.fill(organization, 3)
    await client.fill(organization, 3, partition=1)
    mine += await client.fill(organization, 3, source="mqtt")
    assert sequences(await replayed(kept, organization, until=100)) == mine
    await client.streams.delete_organization(organization.id)


async def test_what_was_trimmed_is_not_there(client, organization, kept):
    await client.fill(organization, 10)
    subject = readings_subject(organization.id, organization.epoch, 0, "http")
    await client.api.call(f"STREAM.PURGE.ORG_{organization.id}", {"filter": subject, "seq": 6})
    assert sequences(await replayed(kept, organization, since=2, until=8)) == [6, 7, 8]
    assert await replayed(kept, organization, since=2, until=4) == []


async def test_messages_larger_than_a_piece_together(client, organization, kept):
    subject = readings_subject(organization.id, organization.epoch, 0, "http")
    for _ in range(5):
        await client.publisher.publish(subject, bytes(5 << 20), {}, timeout_s=30)
    pieces = await replayed(kept, organization, until=5)
    assert sequences(pieces) == [1, 2, 3, 4, 5]
    assert len(pieces) > 1


async def test_nothing_is_left_behind(client, organization, kept):
    await client.fill(organization, 500)
    before = (await client.api.call(f"STREAM.INFO.ORG_{organization.id}"))["state"]["consumer_count"]
    replay = kept.replay(organization, 0, since=0, until=500)
    await anext(replay)
    await replay.aclose()
    await replayed(kept, organization, until=500)
    assert (await client.api.call(f"STREAM.INFO.ORG_{organization.id}"))["state"]["consumer_count"] == before


async def test_an_organization_that_is_gone(kept):
    gone = new_organization()
    with pytest.raises(ApiError):
        await replayed(kept, gone, until=5)
    with pytest.raises(ApiError):
        await kept.floor(gone, 0, "analysis")


async def test_the_floor_is_what_was_acknowledged(client, organization, kept):
    assert await kept.floor(organization, 0, "analysis") == 0
    await client.fill(organization, 7)
    role = Role(client)
    await role.readers.start()
    reader = role.follow(organization)
    await role.until(reader, 7)
    async with asyncio.timeout(10):
        while await kept.floor(organization, 0, "analysis") < 7:  # noqa: ASYNC110 - another process
            await asyncio.sleep(0.01)
    # The reset of a reader leaves it where the position is.
    await client.fill(organization, 1, first=7)
    role.readers.reset(reader, "test")
    await role.until(reader, 8)
    assert await kept.floor(organization, 0, "analysis") >= 7
    await role.readers.stop()

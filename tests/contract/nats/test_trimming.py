"""Trimming: old blocks go, but nothing that a reader still needs, and no lane's last count."""

from __future__ import annotations

import asyncio

import pytest

from iotplatform.adapters.nats.reader import Reader
from iotplatform.adapters.nats.readers import Readers
from iotplatform.adapters.nats.subjects import NOTIFICATIONS, notifications_subject, partition_consumer
from iotplatform.adapters.nats.trimming import Trimmer


@pytest.fixture
def trimmer(client):
    return Trimmer(client.connection, keep_s=0.0)


async def handled(client, stream, consumer, up_to):
    """As if a role had read and committed everything up to a sequence."""
    readers = Readers("analysis", client.connection, client.metrics)

    async def acquire():
        return 0

    reader = Reader(stream, consumer, acquire)
    await readers.start()
    readers.add(reader)
    async with asyncio.timeout(10):
        while True:
            batch = await readers.take()
            for delivery in batch[reader]:
                if delivery.sequence == up_to:
                    await readers.acknowledge(reader, delivery)
                    await client.connection.request("$JS.API.INFO")
                    await readers.stop()
                    return
            await readers.release(batch)


async def handled_by_all(client, organization, up_to, *, partition=0, roles=("analysis", "persistence")):
    for role in roles:
        consumer = partition_consumer(role, organization.epoch, partition)
        await handled(client, f"ORG_{organization.id}", consumer, up_to)


async def left(client, organization):
    return [message.sequence for message in await client.stored(organization)]


async def test_what_every_reader_has_behind_it_goes(client, organization, trimmer):
    await client.fill(organization, 10)
    await handled_by_all(client, organization, 6)
    assert await trimmer.trim(organization) == 6
    assert await left(client, organization) == [7, 8, 9, 10]
    assert await trimmer.trim(organization) == 0
    await handled_by_all(client, organization, 8)
    assert await trimmer.trim(organization) == 2
    assert await left(client, organization) == [9, 10]


@pytest.mark.parametrize("slow", ["analysis", "persistence"])
async def test_the_slowest_reader_decides(client, organization, trimmer, slow):
    fast = {"analysis": "persistence", "persistence": "analysis"}[slow]
    await client.fill(organization, 10)
    await handled_by_all(client, organization, 10, roles=(fast,))
    assert await trimmer.trim(organization) == 0
    await handled_by_all(client, organization, 3, roles=(slow,))
    assert await trimmer.trim(organization) == 3
    assert await left(client, organization) == list(range(4, 11))


async def test_the_last_of_every_subject_stays(client, organization, trimmer):
    """It carries the lane's running total, and for MQTT the place to go on from."""
    await client.fill(organization, 3, source="mqtt")
    await client.fill(organization, 5)
    await handled_by_all(client, organization, 8)
    await trimmer.trim(organization)
    assert await left(client, organization) == [3, 8]


async def test_partitions_are_trimmed_for_themselves(client, trimmer):
    organization = await client.organization(partitions=2)
    for _ in range(3):
        await client.fill(organization, 1, partition=0)
        await client.fill(organization, 1, partition=1)
    await handled_by_all(client, organization, 5, partition=0)
    assert await trimmer.trim(organization) == 2
    assert await left(client, organization) == [2, 4, 5, 6]
    await client.streams.delete_organization(organization.id)


async def test_what_is_young_stays(client, organization):
    await client.fill(organization, 5)
    await handled_by_all(client, organization, 5)
    assert await Trimmer(client.connection, keep_s=3_600).trim(organization) == 0
    # By the server's clock the second half is younger.
    await asyncio.sleep(0.3)
    await client.fill(organization, 5, first=5)
    await handled_by_all(client, organization, 10)
    # Whichever is shorter counts: the settings, or what the organization keeps.
    long, short = Trimmer(client.connection, keep_s=3_600), Trimmer(client.connection, keep_s=0.25)
    assert await short.trim(organization, keep_at_most_s=3_600) == 5
    assert await long.trim(organization, keep_at_most_s=3_600) == 0
    assert await left(client, organization) == [6, 7, 8, 9, 10]
    assert await long.trim(organization, keep_at_most_s=0) == 4


async def test_what_is_not_handled_stays_however_short_it_is_to_be_kept(client, organization):
    await client.fill(organization, 5)
    await handled_by_all(client, organization, 2)
    assert await Trimmer(client.connection, keep_s=3_600).trim(organization, keep_at_most_s=0) == 2
    assert await left(client, organization) == [3, 4, 5]


async def test_nothing_to_trim(client, organization, trimmer):
    assert await trimmer.trim(organization) == 0
    await client.fill(organization, 1)
    await handled_by_all(client, organization, 1)
    assert await trimmer.trim(organization) == 0
    assert await left(client, organization) == [1]


async def test_an_organization_that_is_gone_does_not_stop_the_others(client, organization, trimmer):
    await client.streams.delete_organization(organization.id)
    assert await trimmer.trim(organization) == 0


async def test_a_consumer_that_is_gone_trims_nothing(client, organization, trimmer):
    await client.fill(organization, 5)
    await handled_by_all(client, organization, 5)
    consumer = partition_consumer("analysis", organization.epoch, 0)
    await client.api.call(f"CONSUMER.DELETE.ORG_{organization.id}.{consumer}")
    assert await trimmer.trim(organization) == 0
    assert len(await left(client, organization)) == 5


async def test_notifications(own_client, own_server):
    """On a server of its own: the stream is shared."""
    await own_client.streams.create_shared()
    trimmer = Trimmer(own_client.connection, keep_s=0.0)
    assert await trimmer.trim_notifications() == 0
    for number in range(6):
        subject = notifications_subject("orgA", 1, f"device-{number % 2}")
        await own_client.publisher.publish(subject, b"x", {}, timeout_s=5)
    assert await trimmer.trim_notifications() == 0
    await handled(own_client, NOTIFICATIONS, "notification", 6)
    assert await trimmer.trim_notifications() == 0
    await handled(own_client, NOTIFICATIONS, "persistence", 4)
    assert await trimmer.trim_notifications() == 4
    await handled(own_client, NOTIFICATIONS, "persistence", 6)
    assert await trimmer.trim_notifications() == 1
    state = (await own_client.api.call("STREAM.INFO.NOTIFICATIONS"))["state"]
    assert (state["first_seq"], state["messages"]) == (6, 1)

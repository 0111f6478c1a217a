"""Lanes on a real stream: accepted means stored, and the lanes' counts tell of everything that was."""

from __future__ import annotations

import asyncio

import pytest

from iotplatform.adapters.nats.headers import BlockHeaders
from iotplatform.domain.identifiers import partition_of
from iotplatform.domain.reading import Reading, decode_block
from iotplatform.errors import Rejected, Unavailable
from iotplatform.roles.ingest.lane import LaneLimits
from iotplatform.roles.ingest.lanes import Lanes
from tests.support.platform import eventually


class Door:
    """Sends numbered readings, and remembers what became of each."""

    def __init__(self, client, **limits):
        self.client = client
        self.lanes = Lanes(client.publisher, client.metrics, LaneLimits(**limits))
        self.lanes.start()
        self.accepted, self.unknown, self.refused = set(), set(), set()

    async def send(self, organization, value, device="m"):
        reading = Reading(device, "temp1", float(value), value)
        try:
            await self.lanes.store(organization, "http", [reading], arrived_at=1_000 + value)
        except Unavailable as error:
            (self.unknown if error.outcome_unknown else self.refused).add(value)
        else:
            self.accepted.add(value)

    def start(self, organization, value):
        return asyncio.get_running_loop().create_task(self.send(organization, value))


@pytest.fixture
async def door(client):
    made = Door(client)
    yield made
    await made.lanes.drain(5)


async def blocks(client, organization):
    """(subject, headers, readings) of every block, in stream order."""
    return [
        (message.subject, BlockHeaders.decode(message.headers), decode_block(message.data))
        for message in await client.stored(organization)
    ]


def check_counts(found):
    """Numbers and running totals of every lane are without a gap; returns the sum of the last totals."""
    last = {}
    for _, headers, readings in found:
        number, total = last.get(headers.lane, (0, 0))
        assert headers.number == number + 1
        assert headers.count == len(readings)
        assert headers.total == total + headers.count
        last[headers.lane] = (headers.number, headers.total)
    return sum(total for _, total in last.values())


async def test_concurrent_requests_share_blocks_and_keep_their_order(client, organization, door):
    await asyncio.gather(*(door.send(organization, value) for value in range(1_000)))
    found = await blocks(client, organization)
    assert door.accepted == set(range(1_000))
    assert len(found) < 100
    assert [reading.value for _, _, readings in found for reading in readings] == list(range(1_000))
    assert check_counts(found) == 1_000
    assert client.metrics.readings_accepted.total == 1_000
    assert client.metrics.blocks_published.total == len(found)


async def test_a_block_says_when_its_oldest_reading_arrived(client, organization, door):
    await door.send(organization, 7)
    ((subject, headers, _),) = await blocks(client, organization)
    assert subject == f"readings.{organization.id}.{organization.epoch}.0.http"
    assert headers.arrived_at == 1_007
    assert headers.format == 1


async def test_a_request_of_several_partitions(client, door):
    organization = await client.organization(partitions=4)
    readings = [Reading(f"device-{number}", "temp1", float(number), number) for number in range(50)]
    await asyncio.gather(*(door.lanes.store(organization, "http", readings, 5) for _ in range(10)))
    found = await blocks(client, organization)
    assert check_counts(found) == 500
    for subject, _, stored in found:
        partition = int(subject.split(".")[3])
        assert {partition_of(reading.device_id, 4) for reading in stored} == {partition}
    stored = sorted(reading.at for _, _, readings in found for reading in readings)
    assert stored == sorted(list(range(50)) * 10)
    await client.streams.delete_organization(organization.id)


async def test_organizations_have_lanes_of_their_own(client, organization, door):
    other = await client.organization()
    await asyncio.gather(*(door.send(where, value) for value in range(50) for where in (organization, other)))
    for where in (organization, other):
        found = await blocks(client, where)
        assert check_counts(found) == 50
    await client.streams.delete_organization(other.id)


async def test_a_full_stream_refuses_and_takes_again_when_there_is_room(client, organization, door):
    stream = f"ORG_{organization.id}"
    config = (await client.api.call(f"STREAM.INFO.{stream}"))["config"]
    await client.api.call(f"STREAM.UPDATE.{stream}", config | {"max_bytes": 2_000})
    reading = [Reading("m", "temp1", "x" * 200, 0)]
    found = []
    for _ in range(20):
        found += await asyncio.gather(door.lanes.store(organization, "http", reading, 5), return_exceptions=True)
    refusals = [error for error in found if isinstance(error, Exception)]
    stored = 20 - len(refusals)
    assert 0 < stored < 20
    assert {(type(error), error.kind, error.retry_after_s) for error in refusals} == {(Rejected, "over_quota", 5)}
    await client.api.call(f"STREAM.UPDATE.{stream}", config)
    await door.send(organization, 1)
    found = await blocks(client, organization)
    assert check_counts(found) == stored + 1 == client.metrics.readings_accepted.total


async def test_an_organization_without_a_stream_is_answered(client, organization, door):
    await client.streams.delete_organization(organization.id)
    quick = Door(client, answer_after_s=0.2)
    async with asyncio.timeout(5):
        await quick.send(organization, 1)
    assert quick.accepted == set()
    await quick.lanes.drain(0.01)


class TestWithoutTheServer:
    @pytest.fixture
    async def there(self, own_client):
        made = await own_client.organization()
        own_client.lost, own_client.back = asyncio.Event(), asyncio.Event()
        own_client.connection.on_lost(own_client.lost.set)
        own_client.connection.on_connected(own_client.back.set)
        return made

    async def test_every_request_is_answered_while_it_is_away(self, own_server, own_client, there):
        door = Door(own_client, answer_after_s=0.3)
        await door.send(there, 0)
        own_server.freeze()
        under_way = door.start(there, 1)
        await asyncio.sleep(0)
        waiting = [door.start(there, value) for value in range(2, 20)]
        async with asyncio.timeout(5):
            await asyncio.gather(under_way, *waiting)
        assert (door.accepted, door.unknown) == ({0}, {1})
        assert door.refused == set(range(2, 20))
        own_server.kill()
        async with asyncio.timeout(5):
            await own_client.lost.wait()
            await door.send(there, 20)
        assert 20 not in door.accepted
        await own_server.back()
        async with asyncio.timeout(10):
            await own_client.back.wait()
            await door.send(there, 21)
        found = await blocks(own_client, there)
        stored = [reading.value for _, _, readings in found for reading in readings]
        # What was answered with "nothing was stored" isn't stored, and nothing is twice.
        assert set(stored) - {1.0, 20.0} == {0.0, 21.0}
        assert len(stored) == len(set(stored))
        assert check_counts(found) == len(stored)
        await door.lanes.drain(5)

    async def test_what_was_accepted_is_stored_once_although_the_server_is_killed(self, own_server, own_client, there):
        """Under load, again and again: the first promise."""
        door = Door(own_client)
        running, sent = True, 0

        async def sender():
            nonlocal sent
            while running:
                sent += 1
                await door.send(there, sent)

        loop = asyncio.get_running_loop()
        senders = [loop.create_task(sender()) for _ in range(30)]
        for round_number in range(3):

            async def enough(wanted=200 * (round_number + 1)):
                return len(door.accepted) >= wanted

            await eventually(enough)
            own_client.lost.clear()
            own_client.back.clear()
            own_server.kill()
            async with asyncio.timeout(10):
                await own_client.lost.wait()
                await own_server.back()
                await own_client.back.wait()
        running = False
        async with asyncio.timeout(20):
            await asyncio.gather(*senders)
        found = await blocks(own_client, there)
        stored = [int(reading.value) for _, _, readings in found for reading in readings]
        assert len(stored) == len(set(stored))
        assert door.accepted <= set(stored)
        assert set(stored) <= door.accepted | door.unknown
        assert not door.refused & set(stored)
        # The ledger's "accepted" rests on this.
        assert check_counts(found) == len(stored)
        await door.lanes.drain(5)

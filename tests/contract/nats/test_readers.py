"""Readers: everything above the position, in order, once; whatever happens to the server or to the consumer."""

from __future__ import annotations

import asyncio

import pytest
from nats.aio.msg import Msg

from iotplatform.adapters.nats import readers as readers_module
from iotplatform.adapters.nats.reader import Reader
from iotplatform.adapters.nats.readers import MAX_TAKEN_PER_READER, Readers
from iotplatform.adapters.nats.subjects import organization_stream, partition_consumer
from iotplatform.domain.timestamps import parse_timestamp
from iotplatform.errors import Unavailable
from iotplatform.runtime.backoff import Backoff
from tests.support.platform import eventually


class Role:
    """What a role does with its readers: the position is stored with the effect, and is where to go on."""

    def __init__(self, client):
        self.client = client
        self.readers = Readers("analysis", client.connection, client.metrics)
        self.positions = {}
        self.seen = {}
        self.acquired = 0
        self.asked_twice = asyncio.Event()
        self.fails = 0

    def follow(self, organization, partition=0, position=0):
        stream = organization_stream(organization.id)
        consumer = partition_consumer("analysis", organization.epoch, partition)
        self.positions[consumer] = position
        self.seen[consumer] = []

        async def acquire():
            self.acquired += 1
            if self.acquired == 2:
                self.asked_twice.set()
            if self.fails:
                self.fails -= 1
                raise Unavailable("the store is away")
            return self.positions[consumer]

        async def make():
            await self.readers.consumers.create_of_partition(organization, partition, "analysis")

        reader = Reader(stream, consumer, acquire, make)
        self.readers.add(reader)
        return reader

    async def take(self):
        async with asyncio.timeout(10):
            return await self.readers.take()

    async def handle(self, batch, *, commit=True):
        """Remember what came; commit it and acknowledge."""
        for reader, deliveries in batch.items():
            position = self.positions[reader.consumer]
            fresh = [delivery for delivery in deliveries if delivery.sequence > position]
            if fresh and commit:
                self.seen[reader.consumer] += fresh
                self.positions[reader.consumer] = fresh[-1].sequence
                await self.readers.acknowledge(reader, fresh[-1])
        await self.readers.release(batch)

    async def until(self, reader, count):
        """Work until so many deliveries of a reader have been committed; their sequences."""
        while len(self.seen[reader.consumer]) < count:
            await self.handle(await self.take())
        return self.sequences(reader)

    def sequences(self, reader):
        return [delivery.sequence for delivery in self.seen[reader.consumer]]

    async def filled(self, readers, count):
        """Until so many deliveries wait in each of the readers."""

        async def look():
            return all(len(reader.buffer) >= count for reader in readers)

        await eventually(look)

    async def nothing_more(self, seconds=0.1):
        """That nothing happens can only be seen by waiting for it."""
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(seconds):
                await self.readers.take()


@pytest.fixture
async def role(client):
    made = Role(client)
    await made.readers.start()
    yield made
    await made.readers.stop()


class TestDelivery:
    async def test_everything_above_the_position_in_order(self, client, organization, role):
        await client.fill(organization, 500)
        reader = role.follow(organization, position=123)
        assert await role.until(reader, 377) == list(range(124, 501))
        assert [int(delivery.data) for delivery in role.seen[reader.consumer]] == list(range(123, 500))
        await role.nothing_more()

    async def test_what_comes_later_comes_too(self, client, organization, role):
        reader = role.follow(organization)
        for number in range(5):
            await client.fill(organization, 1, first=number)
            await role.until(reader, number + 1)
        assert role.sequences(reader) == [1, 2, 3, 4, 5]

    async def test_a_delivery_knows_its_place(self, client, organization, role):
        subject = f"readings.{organization.id}.{organization.epoch}.0.mqtt"
        await client.publisher.publish(subject, b"x", {"Iot-Lane": "l"}, timeout_s=5)
        reader = role.follow(organization)
        await role.until(reader, 1)
        (delivery,) = role.seen[reader.consumer]
        assert (delivery.sequence, delivery.subject, delivery.data) == (1, subject, b"x")
        assert delivery.headers["Iot-Lane"] == "l"
        stored = await client.api.get(reader.stream, {"seq": 1})
        assert delivery.stored_at == pytest.approx(parse_timestamp(stored.headers["Nats-Time-Stamp"]), abs=1)

    async def test_partitions_do_not_mix(self, client, role):
        organization = await client.organization(partitions=3)
        for partition in (2, 0, 2, 1, 2):
            await client.fill(organization, 1, partition=partition)
        readers = [role.follow(organization, partition) for partition in range(3)]
        for reader, count in zip(readers, (1, 1, 3), strict=True):
            await role.until(reader, count)
        assert [role.sequences(reader) for reader in readers] == [[2], [4], [1, 3, 5]]
        await client.streams.delete_organization(organization.id)

    async def test_what_is_committed_is_acknowledged(self, client, organization, role):
        await client.fill(organization, 10)
        reader = role.follow(organization)
        await role.until(reader, 10)

        async def acknowledged():
            info = await client.api.call(f"CONSUMER.INFO.{reader.stream}.{reader.consumer}")
            return info["ack_floor"]["stream_seq"] == 10

        await eventually(acknowledged)

    async def test_how_far_behind(self, client, organization, role):
        await client.fill(organization, 300)
        reader = role.follow(organization)
        batch = await role.take()
        taken = sum(map(len, batch.values()))
        assert 0 < taken < 300
        assert (
            role.readers.pending_messages() + role.readers.unacknowledged_messages()
            >= 300 - taken - MAX_TAKEN_PER_READER
        )
        assert 0 < role.readers.lag_seconds() < 60
        await role.handle(batch)
        await role.until(reader, 300)
        assert (role.readers.pending_messages(), role.readers.unacknowledged_messages()) == (0, 0)
        assert role.readers.lag_seconds() == 0.0


class TestTaking:
    async def test_a_reader_in_somebodys_hands_is_not_handed_out_again(self, client, organization, role):
        await client.fill(organization, 1)
        reader = role.follow(organization)
        batch = await role.take()
        assert list(batch) == [reader]
        await client.fill(organization, 5, first=1)
        await role.nothing_more()
        await role.handle(batch)
        assert await role.until(reader, 6) == [1, 2, 3, 4, 5, 6]

    async def test_two_workers_share_the_readers(self, client, role):
        organization = await client.organization(partitions=2)
        readers = [role.follow(organization, partition) for partition in range(2)]
        for partition in range(2):
            await client.fill(organization, 1, partition=partition)
        first = await role.take()
        while len(first) == 1:
            second = await role.take()
            assert not first.keys() & second.keys()
            await role.handle(second)
            break
        await role.handle(first)
        for reader in readers:
            await role.until(reader, 1)
        await client.streams.delete_organization(organization.id)

    async def test_a_quiet_reader_does_not_wait_for_a_flooded_one(self, client, role):
        flooded, quiet = await client.organization(), await client.organization()
        busy = role.follow(flooded)
        await client.fill(flooded, 2_000)
        await role.filled([busy], 1)
        reader = role.follow(quiet)
        await client.fill(quiet, 1)
        await role.filled([reader], 1)
        batch = await role.take()
        # No matter how much waits elsewhere: it is in the next batch.
        assert [len(batch[busy]), len(batch[reader])] == [MAX_TAKEN_PER_READER, 1]
        await role.handle(batch)
        await role.until(busy, 2_000)
        for organization in (flooded, quiet):
            await client.streams.delete_organization(organization.id)

    async def test_among_many_everybody_takes_his_turn(self, client, role, monkeypatch):
        monkeypatch.setattr(readers_module, "MAX_TAKEN_MESSAGES", 100)
        monkeypatch.setattr(readers_module, "MAX_TAKEN_PER_READER", 50)
        organization = await client.organization(partitions=6)
        for partition in range(6):
            await client.fill(organization, 150, partition=partition)
        readers = [role.follow(organization, partition) for partition in range(6)]
        await role.filled(readers, 150)
        turns = []
        for _ in range(9):
            batch = await role.take()
            turns += batch
            await role.handle(batch)
        assert {turns.count(reader) for reader in readers} == {3}
        for reader in readers:
            assert len(role.seen[reader.consumer]) == 150
        await client.streams.delete_organization(organization.id)

    async def test_memory_is_bounded_and_everything_comes_in_the_end(self, client, organization, role, monkeypatch):
        monkeypatch.setattr(readers_module, "MAX_BUFFERED_BYTES", 100)
        await client.fill(organization, 700)
        reader = role.follow(organization)
        first = await role.take()
        await role.nothing_more()
        # One pull is all that was asked for.
        assert len(reader.buffer) < 250
        await role.handle(first)
        assert await role.until(reader, 700) == list(range(1, 701))


class TestReset:
    async def test_goes_back_to_the_stored_position(self, client, organization, role):
        await client.fill(organization, 20)
        reader = role.follow(organization)
        await role.handle(await role.take(), commit=False)
        role.readers.reset(reader, "test")
        assert await role.until(reader, 20) == list(range(1, 21))

    async def test_while_it_is_handed_out_waits_until_it_is_given_back(self, client, organization, role):
        await client.fill(organization, 3)
        reader = role.follow(organization)
        batch = await role.take()
        role.readers.reset(reader, "test")
        role.readers.reset(reader, "again")
        await role.nothing_more()
        assert role.acquired == 1
        await role.handle(batch, commit=False)
        assert await role.until(reader, 3) == [1, 2, 3]

    async def test_as_often_as_one_likes(self, client, organization, role):
        await client.fill(organization, 300)
        reader = role.follow(organization)
        for _ in range(30):
            role.readers.reset(reader, "test")
            await asyncio.sleep(0.002)
        assert await role.until(reader, 300) == list(range(1, 301))

    async def test_a_position_that_goes_back_is_followed(self, client, organization, role):
        """A lost store begins at the beginning."""
        await client.fill(organization, 10)
        reader = role.follow(organization)
        await role.until(reader, 10)
        role.positions[reader.consumer] = 4
        role.seen[reader.consumer].clear()
        role.readers.reset(reader, "test")
        assert await role.until(reader, 6) == [5, 6, 7, 8, 9, 10]

    async def test_a_store_that_is_away_is_asked_again(self, client, organization, role):
        await client.fill(organization, 2)
        role.fails = 3
        reader = role.follow(organization)
        assert await role.until(reader, 2) == [1, 2]
        assert role.acquired == 4


class TestFaults:
    async def test_a_gap_sends_it_back(self, client, organization, role):
        await client.fill(organization, 3)
        reader = role.follow(organization)
        await role.until(reader, 3)
        resets = client.metrics.reader_resets.total
        # A delivery that skips one, as a lost message would make it.
        forged = f"$JS.ACK.{reader.stream}.{reader.consumer}.1.9.7.{10**18}.0"
        await role.readers._received(Msg(None, "readings", forged, b"9"))
        assert client.metrics.reader_resets.total == resets + 1
        await client.fill(organization, 2, first=3)
        assert await role.until(reader, 5) == [1, 2, 3, 4, 5]

    async def test_a_consumer_that_somebody_else_has_reset(self, client, organization, role):
        await client.fill(organization, 5)
        reader = role.follow(organization)
        await role.until(reader, 5)
        await client.api.call(f"CONSUMER.RESET.{reader.stream}.{reader.consumer}", {"seq": 2})
        await client.fill(organization, 5, first=5)
        assert await role.until(reader, 10) == list(range(1, 11))

    async def test_a_consumer_that_is_not_there_yet(self, client, organization, role):
        await client.streams.delete_organization(organization.id)
        reader = role.follow(organization)
        async with asyncio.timeout(5):
            await role.asked_twice.wait()
        await client.streams.create_organization(organization)
        await client.fill(organization, 2)
        assert await role.until(reader, 2) == [1, 2]

    async def test_a_consumer_that_is_deleted_and_made_again(self, client, organization, role):
        await client.fill(organization, 3)
        reader = role.follow(organization)
        await role.until(reader, 3)
        await client.api.call(f"CONSUMER.DELETE.{reader.stream}.{reader.consumer}")
        await client.fill(organization, 2, first=3)
        await client.streams.create_organization(organization)
        assert await role.until(reader, 5) == [1, 2, 3, 4, 5]

    async def test_a_consumer_that_went_with_the_memory_of_its_server(self, own_server, own_client):
        organization = await own_client.organization()
        role = Role(own_client)
        await role.readers.start()
        try:
            reader = role.follow(organization)
            await own_client.fill(organization, 3)
            await role.until(reader, 3)
            own_server.kill()
            await own_server.back()
            assert await own_client.connection.wait_connected(10)
            await own_client.fill(organization, 2, first=3)
            async with asyncio.timeout(5):
                assert await role.until(reader, 5) == [1, 2, 3, 4, 5]
        finally:
            await role.readers.stop()

    async def test_the_pin_of_a_holder_that_is_gone_does_not_hold_it_up(
        self, client, organization, role, connect, servers
    ):
        """Without taking the pin away, nothing would come for the 20 s of the priority time-out."""
        async with connect(servers.nats) as other:
            before = Role(other)
            await before.readers.start()
            held = before.follow(organization)
            await client.fill(organization, 3)
            await before.until(held, 3)
            # Gone without a word: its pulls still wait at the server.
        reader = role.follow(organization, position=3)
        await client.fill(organization, 2, first=3)
        async with asyncio.timeout(5):
            assert await role.until(reader, 2) == [4, 5]

    async def test_nothing_is_skipped_when_the_answer_to_a_reset_is_lost(self, client, organization, role, monkeypatch):
        """What waited for that try is dropped, so what follows on it must not be taken for what comes next."""
        monkeypatch.setattr(readers_module, "Backoff", lambda *_: Backoff(1.0, 1.0))
        reader = role.follow(organization)
        await client.fill(organization, 50)
        await role.filled([reader], 50)
        call, lost = role.readers._pins._api.call, asyncio.Event()

        async def answered_too_late(operation, *arguments, **options):
            answer = await call(operation, *arguments, **options)
            if "RESET" in operation and not lost.is_set():
                # The pulls of before are served before the answer is here.
                await role.filled([reader], 50)
                lost.set()
                raise Unavailable("no answer")
            return answer

        monkeypatch.setattr(role.readers._pins._api, "call", answered_too_late)
        role.readers.reset(reader, "test")
        async with asyncio.timeout(10):
            await lost.wait()
        await client.fill(organization, 20, first=50)
        assert await role.until(reader, 70) == list(range(1, 71))
        assert role.readers._buffered_bytes == 0

    async def test_a_removed_reader_is_silent(self, client, organization, role):
        other = await client.organization()
        removed, kept = role.follow(organization), role.follow(other)
        await client.fill(organization, 1)
        await role.until(removed, 1)
        role.readers.remove(removed)
        role.readers.reset(removed, "too late")
        await client.fill(organization, 1, first=1)
        await client.fill(other, 1)
        await role.until(kept, 1)
        await role.nothing_more()
        assert role.sequences(removed) == [1]
        assert list(role.readers) == [kept]
        await client.streams.delete_organization(other.id)

    async def test_removed_while_it_is_handed_out(self, client, organization, role):
        await client.fill(organization, 3)
        reader = role.follow(organization)
        batch = await role.take()
        role.readers.reset(reader, "test")
        await asyncio.sleep(0.01)
        role.readers.remove(reader)
        acquired = role.acquired
        await role.handle(batch)
        await role.nothing_more()
        # Whoever has it now is not disturbed.
        assert role.acquired == acquired
        assert reader.state == "removed"

    async def test_everything_once_although_the_server_is_killed_twice(self, own_server, own_client):
        """Publishing, reading and committing go on while the server comes and goes."""
        role = Role(own_client)
        await role.readers.start()
        organization = await own_client.organization()
        reader = role.follow(organization)
        lost, back = asyncio.Event(), asyncio.Event()
        own_client.connection.on_lost(lost.set)
        own_client.connection.on_connected(back.set)
        await own_client.fill(organization, 300)
        for round_number in (1, 2):
            await role.handle(await role.take())
            batch = await role.take()
            own_server.kill()
            async with asyncio.timeout(10):
                await lost.wait()
            # A commit without the acknowledgement.
            await role.handle(batch)
            await own_server.back()
            async with asyncio.timeout(10):
                await back.wait()
            lost.clear()
            back.clear()
            await own_client.fill(organization, 100, first=200 + 100 * round_number)
        assert await role.until(reader, 500) == list(range(1, 501))
        await role.nothing_more()
        await role.readers.stop()

"""Requests with an idempotency key on a real stream: however often they are tried, their readings count once."""

from __future__ import annotations

import asyncio

import pytest

from iotplatform.adapters.nats.headers import BlockHeaders
from iotplatform.domain.identifiers import partition_of
from iotplatform.domain.reading import Reading, decode_block
from iotplatform.errors import Rejected, Unavailable
from iotplatform.roles.ingest.idempotency import IdempotencyKey
from iotplatform.roles.ingest.lane import LaneLimits
from iotplatform.roles.ingest.lanes import Lanes
from tests.support.platform import eventually


def lanes_of(client, **limits):
    """The lanes of one process; another one's are another call."""
    made = Lanes(client.publisher, client.metrics, LaneLimits(**limits))
    made.start()
    return made


@pytest.fixture
async def lanes(client):
    made = lanes_of(client)
    yield made
    await made.drain(5)


def readings_of(*values, device="m"):
    return [Reading(device, "temp1", float(value), value) for value in values]


def store(lanes, organization, key, readings, *, body=None):
    """A request whose body is told by its readings, unless it is given."""
    told = repr(readings).encode() if body is None else body
    made = None if key is None else IdempotencyKey.of(key, told)
    return lanes.store(organization, "http", readings, arrived_at=5, key=made)


async def blocks(client, organization):
    return [
        (message.subject, BlockHeaders.decode(message.headers), decode_block(message.data))
        for message in await client.stored(organization)
    ]


def values_in(found):
    return [int(reading.value) for _, _, readings in found for reading in readings]


def check_counts(found):
    """Numbers and running totals of every lane are without a gap; returns the sum of the last totals."""
    last = {}
    for subject, headers, readings in found:
        number, total = last.get((subject, headers.lane), (0, 0))
        assert headers.number == number + 1
        assert headers.count == len(readings)
        assert headers.total == total + headers.count
        last[subject, headers.lane] = (headers.number, headers.total)
    return sum(total for _, total in last.values())


class Answers:
    """Between the lanes and the stream: what a test holds back or loses of the stream's answers."""

    def __init__(self, publisher):
        self._publisher = publisher
        self.lose = 0
        self.hold = None
        self.stored = asyncio.Event()

    def __getattr__(self, name):
        return getattr(self._publisher, name)

    async def publish(self, subject, payload, headers, *, timeout_s):
        ack = await self._publisher.publish(subject, payload, headers, timeout_s=timeout_s)
        self.stored.set()
        if self.hold is not None:
            await self.hold.wait()
        if self.lose:
            self.lose -= 1
            raise Unavailable("the stream did not acknowledge in time", outcome_unknown=True)
        return ack


@pytest.fixture
async def answers(client):
    return Answers(client.publisher)


@pytest.fixture
async def wary(client, answers):
    """Lanes whose answers the test decides about."""
    made = Lanes(answers, client.metrics, LaneLimits())
    made.start()
    yield made
    await made.drain(5)


async def test_sent_again_it_is_stored_once_and_its_number_is_free(client, organization, lanes):
    for _ in range(3):
        await store(lanes, organization, b"k", readings_of(1, 2))
    await store(lanes, organization, None, readings_of(3))
    await store(lanes, organization, b"l", readings_of(4))
    found = await blocks(client, organization)
    assert values_in(found) == [1, 2, 3, 4]
    assert [headers.number for _, headers, _ in found] == [1, 2, 3]
    assert check_counts(found) == 4
    assert client.metrics.readings_accepted.total == 4


async def test_requests_without_a_key_are_as_many_as_they_are(client, organization, lanes):
    for _ in range(3):
        await store(lanes, organization, None, readings_of(1))
    assert values_in(await blocks(client, organization)) == [1, 1, 1]


async def test_a_keyed_request_travels_alone_and_in_its_turn(client, organization, lanes):
    keys = {5: b"five", 10: b"ten", 11: b"eleven"}
    await asyncio.gather(*(store(lanes, organization, keys.get(value), readings_of(value)) for value in range(20)))
    found = await blocks(client, organization)
    assert values_in(found) == list(range(20))
    alone = [readings[0].at for _, _, readings in found if len(readings) == 1]
    assert set(keys) <= set(alone)
    assert len(found) < 10
    assert check_counts(found) == 20


async def test_another_process_sees_the_key_too(client, organization, lanes):
    await store(lanes, organization, b"k", readings_of(1))
    other = lanes_of(client)
    await store(other, organization, None, readings_of(2))
    await store(other, organization, b"k", readings_of(1))
    await store(other, organization, None, readings_of(3))
    found = await blocks(client, organization)
    assert values_in(found) == [1, 2, 3]
    assert check_counts(found) == 3
    await other.drain(5)


async def test_the_same_key_with_another_body_is_refused(client, organization, lanes):
    await store(lanes, organization, b"k", readings_of(1))
    with pytest.raises(Rejected) as caught:
        await store(lanes, organization, b"k", readings_of(2))
    assert caught.value.kind == "invalid"
    assert [(fault.field, "another body" in fault.detail) for fault in caught.value.faults] == [
        ("Idempotency-Key", True)
    ]
    await store(lanes, organization, b"k", readings_of(1))
    await store(lanes, organization, None, readings_of(3))
    found = await blocks(client, organization)
    assert values_in(found) == [1, 3]
    assert check_counts(found) == 2


async def test_organizations_do_not_share_keys(client, organization, lanes):
    other = await client.organization()
    await store(lanes, organization, b"k", readings_of(1))
    await store(lanes, other, b"k", readings_of(2))
    assert values_in(await blocks(client, organization)) == [1]
    assert values_in(await blocks(client, other)) == [2]
    await client.streams.delete_organization(other.id)


async def test_a_key_that_looks_like_the_id_of_a_lane_takes_no_place(client, organization, lanes):
    await store(lanes, organization, None, readings_of(1))
    (_, headers, _), *_ = await blocks(client, organization)
    await store(lanes, organization, f"{headers.lane}.2".encode(), readings_of(2))
    await store(lanes, organization, None, readings_of(3))
    await store(lanes, organization, None, readings_of(4))
    assert values_in(await blocks(client, organization)) == [1, 2, 3, 4]


async def test_a_retry_while_the_first_is_under_way(client, organization, answers, wary):
    answers.hold = asyncio.Event()
    loop = asyncio.get_running_loop()
    first = loop.create_task(store(wary, organization, b"k", readings_of(1)))
    async with asyncio.timeout(10):
        await answers.stored.wait()
    again = loop.create_task(store(wary, organization, b"k", readings_of(1)))
    elsewhere = lanes_of(client)
    await store(elsewhere, organization, b"k", readings_of(1))
    assert not first.done()
    answers.hold.set()
    await asyncio.gather(first, again)
    await store(wary, organization, None, readings_of(2))
    found = await blocks(client, organization)
    assert values_in(found) == [1, 2]
    assert check_counts(found) == 2
    await elsewhere.drain(5)


async def test_our_own_earlier_try_counts_and_uses_its_number(client, organization, answers, wary):
    """The answer to the first publish is lost: the second one meets what the first has stored."""
    await store(wary, organization, None, readings_of(1))
    answers.lose = 2
    await store(wary, organization, b"k", readings_of(2))
    await store(wary, organization, None, readings_of(3))
    found = await blocks(client, organization)
    assert values_in(found) == [1, 2, 3]
    assert len({headers.lane for _, headers, _ in found}) == 1
    assert check_counts(found) == 3 == client.metrics.readings_accepted.total


async def test_an_earlier_request_is_told_from_an_uncertain_try(client, organization, lanes, answers, wary):
    await store(lanes, organization, b"k", readings_of(1))
    answers.lose = 1
    await store(wary, organization, b"k", readings_of(1))
    await store(wary, organization, None, readings_of(2))
    found = await blocks(client, organization)
    assert values_in(found) == [1, 2]
    assert check_counts(found) == 2


async def test_when_the_stored_message_is_gone_the_number_is_used_or_the_lane_is_new(
    client, organization, lanes, answers, wary
):
    stream = f"ORG_{organization.id}"
    await store(lanes, organization, b"k", readings_of(1))
    await store(lanes, organization, None, readings_of(2))
    await client.api.call(f"STREAM.MSG.DELETE.{stream}", {"seq": 1})
    await store(lanes, organization, b"k", readings_of(1))
    await store(lanes, organization, None, readings_of(3))
    found = await blocks(client, organization)
    assert [headers.number for _, headers, _ in found] == [2, 3]

    await store(wary, organization, b"l", readings_of(4))
    sequence = (await client.api.call(f"STREAM.INFO.{stream}"))["state"]["last_seq"]
    await store(wary, organization, None, readings_of(5))
    await client.api.call(f"STREAM.MSG.DELETE.{stream}", {"seq": sequence})
    answers.lose = 1
    await store(wary, organization, b"l", readings_of(4))
    await store(wary, organization, None, readings_of(6))
    (_, before, _), (_, after, _) = (await blocks(client, organization))[2:]
    assert before.lane != after.lane
    assert after.number == 1


class TestSeveralPartitions:
    DEVICES = tuple(f"device-{number}" for number in range(12))

    @pytest.fixture
    async def four(self, client):
        made = await client.organization(partitions=4)
        yield made
        await client.streams.delete_organization(made.id)

    def readings(self, first=0):
        return [Reading(device, "temp1", float(first + at), at) for at, device in enumerate(self.DEVICES)]

    async def test_stored_once_in_each(self, client, four, lanes):
        for _ in range(3):
            await store(lanes, four, b"k", self.readings())
        found = await blocks(client, four)
        assert sorted(values_in(found)) == list(range(12))
        assert len(found) == 4
        assert check_counts(found) == 12

    async def test_what_a_partial_try_left_out_is_added(self, client, four, lanes):
        """One partition's message is taken away, with the id of it: as if it had never come."""
        partial = Answers(client.publisher)
        refused = f"readings.{four.id}.{four.epoch}.{self.partition_beside(b'k')}.http"
        publish = partial.publish

        async def without_one(subject, payload, headers, *, timeout_s):
            if subject == refused:
                raise Unavailable("the stream is not reachable")
            return await publish(subject, payload, headers, timeout_s=timeout_s)

        partial.publish = without_one
        half = Lanes(partial, client.metrics, LaneLimits(answer_after_s=0.5))
        half.start()
        with pytest.raises(Unavailable) as caught:
            await store(half, four, b"k", self.readings())
        assert caught.value.outcome_unknown
        await half.drain(0.01)
        assert len(await blocks(client, four)) == 3
        await store(lanes, four, b"k", self.readings())
        found = await blocks(client, four)
        assert sorted(values_in(found)) == list(range(12))
        assert check_counts(found) == 12

    def partition_beside(self, key):
        first = IdempotencyKey.of(key, b"").first_partition(4)
        return next(partition_of(device, 4) for device in self.DEVICES if partition_of(device, 4) != first)

    async def test_another_body_is_refused_although_it_is_for_other_partitions(self, client, four, lanes):
        beside = self.partition_beside(b"k")
        mine = [reading for reading in self.readings() if partition_of(reading.device_id, 4) == beside]
        others = [reading for reading in self.readings() if partition_of(reading.device_id, 4) != beside]
        await store(lanes, four, b"k", mine)
        with pytest.raises(Rejected):
            await store(lanes, four, b"k", others)
        found = await blocks(client, four)
        assert sorted(values_in(found)) == sorted(int(reading.value) for reading in mine)
        assert check_counts(found) == len(mine)


class TestWithoutTheServer:
    async def test_every_request_is_retried_under_kill_9_and_counts_once(self, own_server, own_client):
        organization = await own_client.organization(partitions=3)
        lanes = lanes_of(own_client, answer_after_s=1.0)
        lost, back = asyncio.Event(), asyncio.Event()
        own_client.connection.on_lost(lost.set)
        own_client.connection.on_connected(back.set)
        running, sent, accepted, tries = True, 0, set(), 0

        async def sender():
            nonlocal sent, tries
            while running:
                sent += 1
                value, done = sent, False
                readings = readings_of(value, device=f"device-{value % 7}")
                while not done:
                    tries += 1
                    try:
                        await store(lanes, organization, b"key-%d" % value, readings)
                    except Unavailable:
                        await asyncio.sleep(0.01)
                    else:
                        accepted.add(value)
                        done = True

        loop = asyncio.get_running_loop()
        senders = [loop.create_task(sender()) for _ in range(10)]
        for round_number in range(3):

            async def enough(wanted=60 * (round_number + 1)):
                return len(accepted) >= wanted

            await eventually(enough, within_s=60)
            lost.clear()
            back.clear()
            own_server.kill()
            async with asyncio.timeout(30):
                await lost.wait()
                await own_server.back()
                await back.wait()
        running = False
        async with asyncio.timeout(60):
            await asyncio.gather(*senders)
        found = await blocks(own_client, organization)
        stored = values_in(found)
        assert len(stored) == len(set(stored))
        assert set(stored) == accepted == set(range(1, sent + 1))
        # The ledger's "accepted" rests on this.
        assert check_counts(found) == len(stored)
        await lanes.drain(5)

"""Lanes with a stream whose answers a test decides."""

from __future__ import annotations

import asyncio

import pytest
import structlog

from iotplatform.adapters.nats.headers import BlockHeaders
from iotplatform.adapters.nats.publisher import Ack, PublishRefused, StreamFull
from iotplatform.domain.organization import Organization
from iotplatform.domain.reading import Reading, decode_block
from iotplatform.errors import Rejected, Unavailable
from iotplatform.observability.metrics import Metrics
from iotplatform.roles.ingest import lane as lane_module
from iotplatform.roles.ingest.lane import LaneLimits
from iotplatform.roles.ingest.lanes import Lanes
from tests.support.platform import eventually

ONE = Organization("orgA", 7, "A Corp", 1, 0)
FOUR = Organization("orgB", 8, "B Corp", 4, 0)
LOST = Unavailable("the connection to NATS was lost", outcome_unknown=True)
AWAY = Unavailable("NATS is not reachable")
# One device in each of the four partitions.
DEVICES = ["d0", "d4", "d1", "d5"]


class Stream:
    """A publisher that keeps what it is given and answers when the test says so."""

    max_bytes = 1 << 20

    def __init__(self):
        self.published = []
        self.answers = {}
        self.arrived = asyncio.Condition()

    async def publish(self, subject, payload, headers, *, timeout_s):
        answer = asyncio.get_running_loop().create_future()
        self.said_of = structlog.contextvars.get_contextvars()
        async with self.arrived:
            self.published.append((subject, payload, dict(headers), answer))
            self.arrived.notify_all()
        decided = self.answers.get(subject)
        if decided is not None:
            raise decided
        return await answer

    async def wait_to_retry(self, delay_s):
        await asyncio.sleep(0)

    async def wait_for(self, count):
        async with asyncio.timeout(10), self.arrived:
            await self.arrived.wait_for(lambda: len(self.published) >= count)

    def answer(self, index, error=None):
        future = self.published[index][3]
        if error is None:
            future.set_result(Ack("ORG_orgA", index + 1))
        else:
            future.set_exception(error)

    def values(self, index):
        return [reading.value for reading in decode_block(self.published[index][1])]

    def headers(self, index):
        return BlockHeaders.decode(self.published[index][2])


@pytest.fixture
def stream():
    return Stream()


@pytest.fixture
async def make(stream):
    made = []

    def lanes(**limits):
        created = Lanes(stream, Metrics(), LaneLimits(**limits))
        made.append(created)
        return created

    yield lanes
    for created in made:
        await created.drain(0.01)


def store(lanes, *values, organization=ONE, device="m"):
    readings = [Reading(device, "temp1", float(value), 0) for value in values]
    return asyncio.get_running_loop().create_task(lanes.store(organization, "http", readings, arrived_at=5))


async def turns(count=5):
    """Lets everything run that can."""
    for _ in range(count):
        await asyncio.sleep(0)


async def test_what_arrives_while_a_block_is_under_way_becomes_the_next_block(stream, make):
    lanes = make()
    first = store(lanes, 1)
    await stream.wait_for(1)
    others = [store(lanes, value) for value in (2, 3, 4)]
    await turns()
    assert len(stream.published) == 1
    stream.answer(0)
    await stream.wait_for(2)
    assert first.done()
    assert not any(other.done() for other in others)
    assert stream.values(1) == [2.0, 3.0, 4.0]
    stream.answer(1)
    await asyncio.gather(first, *others)
    assert stream.headers(0) == BlockHeaders(1, stream.headers(0).lane, 1, 1, 1, 5)
    assert stream.headers(1) == BlockHeaders(1, stream.headers(0).lane, 2, 3, 4, 5)


async def test_a_block_is_bounded_in_readings_and_in_bytes(stream, make):
    for limits in ({"block_readings": 5}, {"block_bytes": 5 * 20}):
        lanes, before = make(**limits), len(stream.published)
        work = [store(lanes, 0)]
        await stream.wait_for(before + 1)
        work += [store(lanes, value, value) for value in range(1, 7)]
        await turns()
        stream.answer(before)
        for index in (1, 2, 3):
            await stream.wait_for(before + index + 1)
            assert stream.values(before + index) == [2 * index - 1] * 2 + [2 * index] * 2
            stream.answer(before + index)
        await asyncio.gather(*work)


async def test_a_block_fits_the_server(stream, make):
    stream.max_bytes = 60
    lanes = make()
    work = [store(lanes, 0)]
    await stream.wait_for(1)
    work += [store(lanes, value) for value in range(1, 10)]
    await turns()
    for index in range(3):
        stream.answer(index)
        await stream.wait_for(index + 2)
        assert len(stream.published[index + 1][1]) <= 60 + 10
    stream.answer(3)
    await asyncio.gather(*work)
    assert [value for index in range(4) for value in stream.values(index)] == list(range(10))


async def test_one_request_may_be_larger_than_a_block_but_not_than_a_message(stream, make):
    stream.max_bytes = 1_000
    lanes = make(block_readings=2)
    work = store(lanes, *range(10))
    await stream.wait_for(1)
    assert len(stream.values(0)) == 10
    stream.answer(0)
    await work
    with pytest.raises(Rejected) as caught:
        await store(lanes, *range(100))
    assert caught.value.kind == "too_large"
    assert "max_payload" in caught.value.detail


async def test_the_same_block_is_sent_again_until_it_is_acknowledged(stream, make):
    lanes = make()
    work = store(lanes, 1)
    await stream.wait_for(1)
    late = store(lanes, 2)
    stream.answer(0, LOST)
    await stream.wait_for(2)
    stream.answer(1, AWAY)
    await stream.wait_for(3)
    assert stream.published[0][:3] == stream.published[1][:3] == stream.published[2][:3]
    stream.answer(2)
    await work
    await stream.wait_for(4)
    assert stream.headers(3).number == 2
    stream.answer(3)
    await late


async def test_a_block_that_is_given_up_is_the_last_of_its_lane_id(stream, make, monkeypatch):
    monkeypatch.setattr(lane_module, "GIVE_UP_S", 0)
    lanes = make()
    work = store(lanes, 1)
    await stream.wait_for(1)
    stream.answer(0, LOST)
    with pytest.raises(Unavailable) as caught:
        await work
    assert caught.value.outcome_unknown
    again = store(lanes, 2)
    await stream.wait_for(2)
    assert stream.headers(1).lane != stream.headers(0).lane
    assert (stream.headers(1).number, stream.headers(1).total) == (1, 1)
    stream.answer(1)
    await again


async def test_a_refused_block_leaves_its_number_to_the_next(stream, make):
    lanes = make()
    full = store(lanes, 1, 2)
    await stream.wait_for(1)
    stream.answer(0, StreamFull("maximum bytes exceeded"))
    with pytest.raises(Rejected) as caught:
        await full
    assert caught.value.kind == "over_quota"
    assert caught.value.retry_after_s
    refused = store(lanes, 3)
    await stream.wait_for(2)
    stream.answer(1, PublishRefused(10060, "expected another sequence"))
    with pytest.raises(Unavailable, match="nothing was stored") as unavailable:
        await refused
    assert not unavailable.value.outcome_unknown
    good = store(lanes, 4)
    await stream.wait_for(3)
    stream.answer(2)
    await good
    assert [stream.headers(index).number for index in range(3)] == [1, 1, 1]
    assert stream.headers(2).total == 1
    assert len({stream.headers(index).lane for index in range(3)}) == 1


async def test_a_refusal_after_a_lost_answer_says_that_the_outcome_is_unknown(stream, make):
    lanes = make()
    work = store(lanes, 1)
    await stream.wait_for(1)
    stream.answer(0, LOST)
    await stream.wait_for(2)
    stream.answer(1, StreamFull("maximum bytes exceeded"))
    with pytest.raises(Unavailable) as caught:
        await work
    assert caught.value.outcome_unknown
    again = store(lanes, 2)
    await stream.wait_for(3)
    # Its number may be in the stream: it must not be used for anything else.
    assert stream.headers(2).lane != stream.headers(0).lane
    stream.answer(2)
    await again


async def test_a_full_lane_refuses_and_recovers(stream, make):
    lanes = make(waiting_readings=3)
    work = [store(lanes, 0)]
    await stream.wait_for(1)
    work += [store(lanes, value) for value in (1, 2, 3)]
    await turns()
    with pytest.raises(Unavailable, match="nothing was stored") as caught:
        await store(lanes, 4)
    assert caught.value.retry_after_s
    assert not caught.value.outcome_unknown
    stream.answer(0)
    await stream.wait_for(2)
    work.append(store(lanes, 5))
    stream.answer(1)
    await stream.wait_for(3)
    stream.answer(2)
    await asyncio.gather(*work)
    assert stream.values(1) + stream.values(2) == [1, 2, 3, 5]


async def test_the_bytes_of_all_lanes_together_are_bounded(stream, make):
    lanes = make(total_waiting_bytes=100)
    other = Organization("orgC", 9, "C Corp", 1, 0)
    work = [store(lanes, 0), store(lanes, 0, organization=other)]
    await stream.wait_for(2)
    with pytest.raises(Unavailable):
        await store(lanes, *range(10))
    work += [store(lanes, 1, 2), store(lanes, 1, 2, organization=other)]
    await turns()
    with pytest.raises(Unavailable):
        await store(lanes, 3, 4, organization=other)
    stream.answer(0)
    stream.answer(1)
    await stream.wait_for(4)
    stream.answer(2)
    stream.answer(3)
    await asyncio.gather(*work)


async def test_a_request_that_is_cancelled_while_it_waits_is_not_sent(stream, make):
    lanes = make()
    first = store(lanes, 1)
    await stream.wait_for(1)
    gone, kept = store(lanes, 2), store(lanes, 3)
    await turns()
    gone.cancel()
    await turns()
    stream.answer(0)
    await stream.wait_for(2)
    assert stream.values(1) == [3.0]
    stream.answer(1)
    await asyncio.gather(first, kept)
    assert gone.cancelled()


async def test_a_request_that_is_cancelled_under_way_disturbs_nobody(stream, make):
    lanes = make()
    first = store(lanes, 1)
    await stream.wait_for(1)
    gone, kept = store(lanes, 2), store(lanes, 3)
    await turns()
    stream.answer(0)
    await stream.wait_for(2)
    gone.cancel()
    await turns()
    stream.answer(1)
    await asyncio.gather(first, kept)
    assert stream.headers(1).total == 3


class TestExpiry:
    @pytest.fixture
    async def lanes(self, stream):
        self.now = 100.0
        return Lanes(stream, Metrics(), LaneLimits(answer_after_s=10.0), clock=lambda: self.now)

    async def test_every_request_is_answered_in_time(self, stream, lanes):
        lanes.start()
        under_way = store(lanes, 1)
        await stream.wait_for(1)
        waiting = store(lanes, 2)
        await turns()
        self.now = 109.0
        later = store(lanes, 3)
        await turns()
        self.now = 111.0
        with pytest.raises(Unavailable) as unknown:
            await under_way
        with pytest.raises(Unavailable, match="nothing was stored") as not_sent:
            await waiting
        assert unknown.value.outcome_unknown
        assert not not_sent.value.outcome_unknown
        assert not later.done()
        # What was answered is not sent any more, and what was under way keeps its number.
        stream.answer(0)
        await stream.wait_for(2)
        assert stream.values(1) == [3.0]
        assert stream.headers(1).number == 2
        stream.answer(1)
        await later
        await lanes.drain(1)


class TestIdleness:
    @pytest.fixture
    async def lanes(self, stream):
        self.now = 0.0
        made = Lanes(stream, Metrics(), LaneLimits(idle_s=600.0, answer_after_s=1e9), clock=lambda: self.now)
        yield made
        await made.drain(0.01)

    async def send(self, stream, lanes):
        """Returns the lane id under which it went out."""
        before = len(stream.published)
        work = store(lanes, 1)
        await stream.wait_for(before + 1)
        stream.answer(before)
        await work
        await turns()
        return stream.headers(before).lane

    async def test_a_lane_that_is_idle_for_too_long_is_dropped(self, stream, lanes):
        lanes.start()
        first = await self.send(stream, lanes)
        self.now = 599.0
        assert await self.send(stream, lanes) == first
        self.now = 1_199.0
        await asyncio.sleep(0.6)
        assert len(lanes._lanes) == 1
        self.now = 1_200.0

        async def dropped():
            return not lanes._lanes

        await eventually(dropped)
        assert await self.send(stream, lanes) != first

    async def test_a_lane_that_nobody_could_drop_in_time_is_not_used_again(self, stream, lanes):
        """As after a freeze of the process: the next request is there before the sweep."""
        first = await self.send(stream, lanes)
        self.now = 600.5
        assert await self.send(stream, lanes) != first
        assert stream.headers(1).number == 1

    async def test_a_lane_that_still_has_something_to_send_is_kept(self, stream, lanes):
        lanes.start()
        work = store(lanes, 1)
        await stream.wait_for(1)
        self.now = 10_000.0
        await asyncio.sleep(0.6)
        later = store(lanes, 2)
        await turns()
        stream.answer(0)
        await stream.wait_for(2)
        assert (stream.headers(1).lane, stream.headers(1).number) == (stream.headers(0).lane, 2)
        stream.answer(1)
        await asyncio.gather(work, later)


class TestSeveralPartitions:
    def readings(self):
        return [Reading(device, "temp1", float(number), 0) for number, device in enumerate(DEVICES * 2)]

    def store(self, lanes):
        return asyncio.get_running_loop().create_task(lanes.store(FOUR, "http", self.readings(), arrived_at=5))

    async def test_every_partition_gets_its_own_and_all_must_be_stored(self, stream, make):
        work = self.store(make())
        await stream.wait_for(4)
        assert sorted(subject for subject, *_ in stream.published) == [f"readings.orgB.8.{n}.http" for n in range(4)]
        for index in range(4):
            assert len(stream.values(index)) == 2
            assert not work.done()
            stream.answer(index)
            await turns()
        await work

    @pytest.mark.parametrize("first_failure", [0, 3])
    async def test_a_part_that_is_stored_makes_the_outcome_unknown(self, stream, make, first_failure):
        work = self.store(make())
        await stream.wait_for(4)
        for index in range(4):
            stream.answer(index, StreamFull("full") if index == first_failure else None)
        with pytest.raises(Unavailable) as caught:
            await work
        assert caught.value.outcome_unknown

    @pytest.mark.parametrize("uncertain", range(4))
    async def test_a_part_that_may_be_stored_makes_the_outcome_unknown(self, stream, make, monkeypatch, uncertain):
        monkeypatch.setattr(lane_module, "GIVE_UP_S", 0)
        work = self.store(make())
        await stream.wait_for(4)
        for index in range(4):
            stream.answer(index, LOST if index == uncertain else StreamFull("full"))
        with pytest.raises(Unavailable) as caught:
            await work
        assert caught.value.outcome_unknown

    async def test_refused_by_all_is_refused(self, stream, make):
        work = self.store(make())
        await stream.wait_for(4)
        for index in range(4):
            stream.answer(index, StreamFull("full"))
        with pytest.raises(Rejected):
            await work

    async def test_one_full_lane_refuses_all_of_it_before_anything_is_sent(self, stream, make):
        lanes = make(waiting_readings=1)
        work = [store(lanes, 0, organization=FOUR, device=DEVICES[2])]
        await stream.wait_for(1)
        work.append(store(lanes, 1, organization=FOUR, device=DEVICES[2]))
        await turns()
        with pytest.raises(Unavailable, match="nothing was stored"):
            await self.store(lanes)
        assert len(stream.published) == 1
        stream.answer(0)
        await stream.wait_for(2)
        stream.answer(1)
        await asyncio.gather(*work)


class TestDraining:
    async def test_what_was_taken_is_sent_and_nothing_new_is(self, stream, make):
        lanes = make()
        work = [store(lanes, 1)]
        await stream.wait_for(1)
        work.append(store(lanes, 2))
        await turns()
        drain = asyncio.get_running_loop().create_task(lanes.drain(10))
        await turns()
        with pytest.raises(Unavailable, match="stopping"):
            await store(lanes, 3)
        stream.answer(0)
        await stream.wait_for(2)
        stream.answer(1)
        await drain
        await asyncio.gather(*work)
        assert stream.values(1) == [2.0]

    async def test_nobody_is_left_waiting_when_the_stream_does_not_answer(self, stream, make):
        lanes = make()
        under_way = store(lanes, 1)
        await stream.wait_for(1)
        waiting = store(lanes, 2)
        await turns()
        await lanes.drain(0.01)
        async with asyncio.timeout(5):
            with pytest.raises(Unavailable) as unknown:
                await under_way
            with pytest.raises(Unavailable, match="nothing was stored") as not_sent:
                await waiting
        assert unknown.value.outcome_unknown
        assert not not_sent.value.outcome_unknown


async def test_what_a_lane_says_is_not_of_the_request_that_woke_it(stream, make):
    lanes = make()
    with structlog.contextvars.bound_contextvars(trace_id="of the first"):
        first = store(lanes, 1)
        await stream.wait_for(1)
    assert stream.said_of == {}
    stream.answer(0)
    await first

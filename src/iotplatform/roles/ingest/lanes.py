"""Every lane of a process, and the way of a request's readings into them."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable
from contextvars import Context

from iotplatform.adapters.nats.publisher import Ack, Publisher
from iotplatform.adapters.nats.subjects import Source, readings_subject
from iotplatform.domain.identifiers import partition_of
from iotplatform.domain.organization import Organization
from iotplatform.domain.reading import Reading, encode_readings
from iotplatform.errors import PlatformError, Rejected, Unavailable
from iotplatform.observability.instruments import QueueState
from iotplatform.observability.metrics import Metrics
from iotplatform.roles.ingest.attendance import Seen
from iotplatform.roles.ingest.idempotency import IdempotencyKey, KeyedPart
from iotplatform.roles.ingest.lane import Lane, LaneLimits, Waiting
from iotplatform.roles.ingest.request import DirectRequest, Request, TracedDirectRequest, TracedRequest
from iotplatform.runtime.tasks import Tasks


class Lanes:
    """Every lane of this process."""

    def __init__(
        self,
        publisher: Publisher,
        metrics: Metrics,
        limits: LaneLimits,
        clock: Callable[[], float] = time.monotonic,
        *,
        seen: Seen | None = None,
    ) -> None:
        self.seen = seen or Seen()
        self._publisher = publisher
        self._metrics = metrics
        self._limits = limits
        self._clock = clock
        self._lanes: dict[tuple[int, int, Source], Lane] = {}
        self._tasks = Tasks("ingest.lanes")
        self._waiting = Waiting()
        self._draining = False
        metrics.watch_queue("lane_bytes", self._held_bytes)
        metrics.watch_queue("lane_readings", self._held_readings)

    def _held_bytes(self) -> QueueState:
        return QueueState(self._waiting.bytes, self._limits.total_waiting_bytes)

    def _held_readings(self) -> QueueState:
        """That of a lane is the limit; how many lanes there are is up to the organizations."""
        return QueueState(sum(lane.waiting_readings for lane in self._lanes.values()), self._limits.waiting_readings)

    def start(self) -> None:
        self._tasks.start(self._expire(), "expire")

    async def wait(self) -> None:
        await self._tasks.wait()

    async def store(
        self,
        organization: Organization,
        source: Source,
        readings: list[Reading],
        arrived_at: int,
        *,
        key: IdempotencyKey | None = None,
    ) -> Ack:
        """The stream's acknowledgement when it has all of the readings; with a key, whichever try has brought them.

        Of several partitions, that of the block which was stored last.

        Raises:
            Rejected: too large for a block, the organization's stream is full, or the key belongs to another request.
            Unavailable: a lane is full, or there was no acknowledgement in time.
        """
        if self._draining:
            raise _stopping()
        self.seen.note(organization.epoch, readings, arrived_at)
        if organization.partitions == 1:
            request = self._submit(organization, 0, source, readings, arrived_at, key)
            return await request.stored
        parts: dict[int, list[Reading]] = {}
        for reading in readings:
            parts.setdefault(partition_of(reading.device_id, organization.partitions), []).append(reading)
        if key is not None:
            return await self._store_keyed(organization, source, parts, arrived_at, key)
        prepared = [(partition, part, self._encode(part)) for partition, part in parts.items()]
        for partition, _, chunk in prepared:
            self._check_room(self._lane(organization, partition, source), len(chunk))
        requests = [
            self._enqueue(self._lane(organization, partition, source), chunk, len(part), arrived_at)
            for partition, part, chunk in prepared
        ]
        failures = await _failures(requests)
        if failures:
            if len(failures) < len(requests):
                raise _only_a_part() from failures[0]
            # One that may be stored outweighs those that are certainly not.
            uncertain = (
                failure for failure in failures if isinstance(failure, Unavailable) and failure.outcome_unknown
            )
            raise next(uncertain, failures[0])
        return _last(requests)

    def submit(
        self,
        organization: Organization,
        source: Source,
        readings: list[Reading],
        arrived_at: int,
        answer: Callable[[PlatformError | None], None],
        traceparent: str | None = None,
    ) -> bool:
        """`store` for readings of one partition, without a future: `answer` is called with None or the error.

        False, and nothing done, when they belong to several partitions.

        Raises:
            Rejected, Unavailable: at once; `answer` is not called then.
        """
        if self._draining:
            raise _stopping()
        partitions = organization.partitions
        partition = partition_of(readings[0].device_id, partitions)
        if partitions > 1 and any(partition_of(reading.device_id, partitions) != partition for reading in readings):
            return False
        chunk = self._encode(readings)
        lane = self._lane(organization, partition, source)
        self._check_room(lane, len(chunk))
        self.seen.note(organization.epoch, readings, arrived_at)
        now = self._clock()
        deadline = now + self._limits.answer_after_s
        if traceparent is None:
            request = DirectRequest(chunk, len(readings), arrived_at, deadline, answer)
        else:
            request = TracedDirectRequest(chunk, len(readings), arrived_at, deadline, answer)
            request.traceparent = traceparent
        self._start(lane, request, now)
        return True

    async def _store_keyed(
        self,
        organization: Organization,
        source: Source,
        parts: dict[int, list[Reading]],
        arrived_at: int,
        key: IdempotencyKey,
    ) -> Ack:
        """The partition that follows from the key comes first, with an empty block if it has no reading.

        There every other request with this key would come first too, so one with another body is refused before
        anything of it is stored, whatever partitions its readings are for.
        """
        first = key.first_partition(organization.partitions)
        parts.setdefault(first, [])
        prepared = {partition: (self._encode(part), len(part)) for partition, part in parts.items()}

        def check_rooms() -> None:
            for partition, (chunk, _) in prepared.items():
                self._check_room(self._lane(organization, partition, source), len(chunk))

        def enqueue(partition: int, chunk: bytes, count: int) -> Request:
            lane = self._lane(organization, partition, source)
            return self._enqueue(lane, chunk, count, arrived_at, key.part(organization.epoch, partition))

        check_rooms()
        requests = [enqueue(first, *prepared.pop(first))]
        await requests[0].stored
        try:
            check_rooms()
        except Unavailable as error:
            raise _only_a_part() from error
        requests += [enqueue(partition, *part) for partition, part in prepared.items()]
        if failures := await _failures(requests):
            raise _only_a_part() from failures[0]
        return _last(requests)

    def _submit(
        self,
        organization: Organization,
        partition: int,
        source: Source,
        readings: list[Reading],
        arrived_at: int,
        key: IdempotencyKey | None,
    ) -> Request:
        chunk = self._encode(readings)
        lane = self._lane(organization, partition, source)
        self._check_room(lane, len(chunk))
        keyed = None if key is None else key.part(organization.epoch, partition)
        return self._enqueue(lane, chunk, len(readings), arrived_at, keyed)

    def _encode(self, readings: list[Reading]) -> bytes:
        chunk = encode_readings(readings)
        most = self._publisher.max_bytes
        if len(chunk) > most:
            raise Rejected(
                "too_large",
                f"the readings take {len(chunk)} bytes as a block, more than the {most} that the NATS server's "
                "max_payload leaves: send fewer readings in a request",
            )
        return chunk

    def are_full(self, organization: Organization, source: Source) -> bool:
        """Whether nothing of this organization could be taken now, whatever device it is for."""
        for partition in range(organization.partitions):
            lane = self._lanes.get((organization.epoch, partition, source))
            if lane is None or not lane.is_full:
                return False
        return True

    def _check_room(self, lane: Lane, size: int) -> None:
        if lane.is_full or self._waiting.bytes + size > self._limits.total_waiting_bytes:
            raise no_room()

    def _enqueue(
        self, lane: Lane, chunk: bytes, count: int, arrived_at: int, keyed: KeyedPart | None = None
    ) -> Request:
        now = self._clock()
        deadline = now + self._limits.answer_after_s
        request: Request
        if self._metrics.tracer is not None and (traceparent := self._metrics.tracer.current()) is not None:
            request = TracedRequest(chunk, count, arrived_at, deadline, keyed)
            request.traceparent = traceparent
        else:
            request = Request(chunk, count, arrived_at, deadline, keyed)
        self._start(lane, request, now)
        return request

    def _start(self, lane: Lane, request: Request, now: float) -> None:
        lane.submit(request)
        if lane.task is None:
            if lane.is_idle(now):
                # A process that was frozen has not dropped it in time.
                lane.renew()
            # In a context of its own: what a lane says is not only about the request that has woken it.
            lane.task = self._tasks.spawn(lane.work(), lane.subject, Context())
        lane.used_at = now

    def _lane(self, organization: Organization, partition: int, source: Source) -> Lane:
        key = (organization.epoch, partition, source)
        lane = self._lanes.get(key)
        if lane is None:
            subject = readings_subject(organization.id, organization.epoch, partition, source)
            lane = self._lanes[key] = Lane(subject, self._publisher, self._limits, self._metrics, self._waiting)
            lane.used_at = self._clock()
        return lane

    async def _expire(self) -> None:
        while True:
            await asyncio.sleep(0.5)
            now = self._clock()
            for key, lane in list(self._lanes.items()):
                lane.expire(now)
                if lane.is_idle(now):
                    del self._lanes[key]

    async def drain(self, deadline_s: float) -> None:
        """Take nothing new, and wait until every lane has sent what it holds; what it can't send is answered."""
        self._draining = True
        working = [lane.task for lane in self._lanes.values() if lane.task is not None]
        if working:
            await asyncio.wait(working, timeout=deadline_s)
        await self._tasks.stop()
        for lane in self._lanes.values():
            lane.expire(math.inf)


def no_room() -> Unavailable:
    return Unavailable("too many readings wait for the stream; nothing was stored", retry_after_s=1)


def _stopping() -> Unavailable:
    return Unavailable("the platform is stopping; nothing was stored", retry_after_s=2)


async def _failures(requests: list[Request]) -> list[BaseException]:
    results = await asyncio.gather(*(request.stored for request in requests), return_exceptions=True)
    return [result for result in results if isinstance(result, BaseException)]


def _last(requests: list[Request]) -> Ack:
    return max((request.stored.result() for request in requests), key=lambda ack: ack.seq)


def _only_a_part() -> Unavailable:
    return Unavailable(
        "only a part was acknowledged; the outcome is unknown: the readings may be stored", outcome_unknown=True
    )

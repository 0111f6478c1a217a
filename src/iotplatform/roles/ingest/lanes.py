"""Every lane of a process, and the way of a request's readings into them."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable

from iotplatform.adapters.nats.publisher import Publisher
from iotplatform.adapters.nats.subjects import Source, readings_subject
from iotplatform.domain.identifiers import partition_of
from iotplatform.domain.organization import Organization
from iotplatform.domain.reading import Reading, encode_readings
from iotplatform.errors import PlatformError, Rejected, Unavailable
from iotplatform.observability.metrics import Metrics
from iotplatform.roles.ingest.lane import DirectRequest, Lane, LaneLimits, Request, Waiting
from iotplatform.runtime.tasks import Tasks


class Lanes:
    """Every lane of this process."""

    def __init__(
        self,
        publisher: Publisher,
        metrics: Metrics,
        limits: LaneLimits,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._publisher = publisher
        self._metrics = metrics
        self._limits = limits
        self._clock = clock
        self._lanes: dict[tuple[int, int, Source], Lane] = {}
        self._tasks = Tasks("ingest.lanes")
        self._waiting = Waiting()
        self._draining = False

    def start(self) -> None:
        self._tasks.start(self._expire(), "expire")

    async def wait(self) -> None:
        await self._tasks.wait()

    async def store(self, organization: Organization, source: Source, readings: list[Reading], arrived_at: int) -> None:
        """Returns when the stream has acknowledged all of the readings.

        Raises:
            Rejected: too large for a block, or the organization's stream is full.
            Unavailable: a lane is full, or there was no acknowledgement in time.
        """
        if self._draining:
            raise _stopping()
        if organization.partitions == 1:
            request = self._submit(organization, 0, source, readings, arrived_at)
            await request.stored
            return
        parts: dict[int, list[Reading]] = {}
        for reading in readings:
            parts.setdefault(partition_of(reading.device_id, organization.partitions), []).append(reading)
        prepared = [(partition, part, self._encode(part)) for partition, part in parts.items()]
        for partition, _, chunk in prepared:
            self._check_room(self._lane(organization, partition, source), len(chunk))
        requests = [
            self._enqueue(self._lane(organization, partition, source), chunk, len(part), arrived_at)
            for partition, part, chunk in prepared
        ]
        results = await asyncio.gather(*(request.stored for request in requests), return_exceptions=True)
        failures = [result for result in results if isinstance(result, BaseException)]
        if failures:
            if len(failures) < len(results):
                raise Unavailable(
                    "only a part was acknowledged; the outcome is unknown: the readings may be stored",
                    outcome_unknown=True,
                ) from failures[0]
            # One that may be stored outweighs those that are certainly not.
            uncertain = (
                failure for failure in failures if isinstance(failure, Unavailable) and failure.outcome_unknown
            )
            raise next(uncertain, failures[0])

    def submit(
        self,
        organization: Organization,
        source: Source,
        readings: list[Reading],
        arrived_at: int,
        answer: Callable[[PlatformError | None], None],
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
        deadline = self._clock() + self._limits.answer_after_s
        self._start(lane, DirectRequest(chunk, len(readings), arrived_at, deadline, answer))
        return True

    def _submit(
        self, organization: Organization, partition: int, source: Source, readings: list[Reading], arrived_at: int
    ) -> Request:
        chunk = self._encode(readings)
        lane = self._lane(organization, partition, source)
        self._check_room(lane, len(chunk))
        return self._enqueue(lane, chunk, len(readings), arrived_at)

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

    def _check_room(self, lane: Lane, size: int) -> None:
        if lane.is_full or self._waiting.bytes + size > self._limits.total_waiting_bytes:
            raise Unavailable("too many readings wait for the stream; nothing was stored", retry_after_s=1)

    def _enqueue(self, lane: Lane, chunk: bytes, count: int, arrived_at: int) -> Request:
        request = Request(chunk, count, arrived_at, self._clock() + self._limits.answer_after_s)
        self._start(lane, request)
        return request

    def _start(self, lane: Lane, request: Request) -> None:
        lane.submit(request)
        if lane.task is None:
            lane.task = self._tasks.spawn(lane.work(), lane.subject)

    def _lane(self, organization: Organization, partition: int, source: Source) -> Lane:
        key = (organization.epoch, partition, source)
        lane = self._lanes.get(key)
        if lane is None:
            subject = readings_subject(organization.id, organization.epoch, partition, source)
            lane = self._lanes[key] = Lane(subject, self._publisher, self._limits, self._metrics, self._waiting)
        return lane

    async def _expire(self) -> None:
        while True:
            await asyncio.sleep(0.5)
            now = self._clock()
            for lane in self._lanes.values():
                lane.expire(now)

    async def drain(self, deadline_s: float) -> None:
        """Take nothing new, and wait until every lane has sent what it holds; what it can't send is answered."""
        self._draining = True
        working = [lane.task for lane in self._lanes.values() if lane.task is not None]
        if working:
            await asyncio.wait(working, timeout=deadline_s)
        await self._tasks.stop()
        for lane in self._lanes.values():
            lane.expire(math.inf)


def _stopping() -> Unavailable:
    return Unavailable("the platform is stopping; nothing was stored", retry_after_s=2)

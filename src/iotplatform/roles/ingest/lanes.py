"""Lanes: the group commit of the door.

A lane takes the readings of one organization, partition and source. It has at most one block in flight; what arrives
meanwhile becomes the next block, and the stream's acknowledgement answers every request in it. An idle lane adds no
delay, a busy one commits in groups, and order is kept.

A block that was sent never changes: the same bytes go out under the same message id until they are acknowledged (a
duplicate is a success), and nothing overtakes it. At half the stream's dedup window it is given up; the lane goes on
under a new id, because a block of its old one may still be stored.
"""

from __future__ import annotations

import asyncio
import secrets
import time
from collections import deque
from collections.abc import Callable
from typing import Final

import msgspec
import structlog

from iotplatform.adapters.nats.headers import BlockHeaders
from iotplatform.adapters.nats.publisher import Publisher, PublishRefused, StreamFull
from iotplatform.adapters.nats.streams import DEDUP_WINDOW_S
from iotplatform.adapters.nats.subjects import Source, readings_subject
from iotplatform.domain.identifiers import partition_of
from iotplatform.domain.organization import Organization
from iotplatform.domain.reading import FORMAT_VERSION, Reading, encode_readings, join_block
from iotplatform.errors import PlatformError, Rejected, Unavailable
from iotplatform.observability.metrics import Metrics
from iotplatform.runtime.backoff import Backoff
from iotplatform.runtime.tasks import Tasks

log = structlog.get_logger(role="ingest")

ACK_TIMEOUT_S: Final = 2.0
GIVE_UP_S: Final = DEDUP_WINDOW_S / 2


class LaneLimits(msgspec.Struct, frozen=True):
    """What a block and a lane may hold. A single request may be larger than a block's bound, up to `max_request_bytes`."""

    block_readings: int = 5_000
    block_bytes: int = 1 << 20
    waiting_readings: int = 50_000
    waiting_bytes: int = 16 << 20
    total_waiting_bytes: int = 256 << 20
    max_request_bytes: int = (8 << 20) - (16 << 10)
    answer_after_s: float = 10.0


class Waiting:
    """What waits in all the lanes of the process."""

    __slots__ = ("bytes",)

    def __init__(self) -> None:
        self.bytes = 0


class Request:
    """One request's part in a lane; `stored` resolves when the stream has it."""

    __slots__ = ("arrived_at", "chunk", "count", "deadline", "stored")

    def __init__(self, chunk: bytes, count: int, arrived_at: int, deadline: float) -> None:
        self.chunk = chunk
        self.count = count
        self.arrived_at = arrived_at
        self.deadline = deadline
        self.stored: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def fail(self, error: PlatformError) -> None:
        if not self.stored.done():
            self.stored.set_exception(error)


class Lane:
    """`submit` is synchronous and bounded; one task works while there is anything to send."""

    def __init__(
        self, subject: str, publisher: Publisher, limits: LaneLimits, metrics: Metrics, everywhere: Waiting
    ) -> None:
        self.subject = subject
        self._publisher = publisher
        self._limits = limits
        self._metrics = metrics
        self._everywhere = everywhere
        self._waiting: deque[Request] = deque()
        self.waiting_readings = 0
        self.waiting_bytes = 0
        self.in_flight: list[Request] = []
        self.task: asyncio.Task[None] | None = None
        self._renew()

    def _renew(self) -> None:
        self._id = secrets.token_hex(8)
        self._number = 0
        self._total = 0

    @property
    def is_full(self) -> bool:
        return (
            self.waiting_readings >= self._limits.waiting_readings or self.waiting_bytes >= self._limits.waiting_bytes
        )

    def submit(self, request: Request) -> None:
        self._waiting.append(request)
        self.waiting_readings += request.count
        self.waiting_bytes += len(request.chunk)
        self._everywhere.bytes += len(request.chunk)

    def expire(self, now: float) -> None:
        """Answer what waits too long. What was never sent is certainly not stored; what was sent may be."""
        while self._waiting and self._waiting[0].deadline <= now:
            self._take().fail(Unavailable("the stream is not reachable; nothing was stored", retry_after_s=2))
        for request in self.in_flight:
            if request.deadline <= now:
                request.fail(
                    Unavailable(
                        "the stream has not acknowledged in time; the outcome is unknown: the readings may be stored",
                        retry_after_s=2,
                        outcome_unknown=True,
                    )
                )

    async def work(self) -> None:
        """Send blocks until nothing waits."""
        while self._waiting:
            block = self._next_block()
            if block:
                await self._deliver(block)
        # No await since the loop looked, so nothing can have been submitted that no task would send.
        self.task = None

    def _take(self) -> Request:
        request = self._waiting.popleft()
        self.waiting_readings -= request.count
        self.waiting_bytes -= len(request.chunk)
        self._everywhere.bytes -= len(request.chunk)
        return request

    def _next_block(self) -> list[Request]:
        block: list[Request] = []
        readings = size = 0
        while self._waiting:
            request = self._waiting[0]
            if request.stored.done():  # its sender is gone, or has had its answer
                self._take()
                continue
            readings += request.count
            size += len(request.chunk)
            if block and (readings > self._limits.block_readings or size > self._limits.block_bytes):
                break
            block.append(self._take())
        return block

    async def _deliver(self, requests: list[Request]) -> None:
        count = sum(request.count for request in requests)
        payload = join_block([request.chunk for request in requests], count)
        headers = BlockHeaders(
            format=FORMAT_VERSION,
            lane=self._id,
            number=self._number + 1,
            count=count,
            total=self._total + count,
            arrived_at=min(request.arrived_at for request in requests),
        )
        encoded = headers.encode()
        self.in_flight = requests
        backoff = Backoff(0.05, 1.0)
        give_up_at = time.monotonic() + GIVE_UP_S
        uncertain = False
        try:
            while True:
                try:
                    ack = await self._publisher.publish(self.subject, payload, encoded, timeout_s=ACK_TIMEOUT_S)
                except Unavailable as error:
                    uncertain = uncertain or error.outcome_unknown
                    if time.monotonic() >= give_up_at:
                        self._give_up(requests, uncertain=uncertain)
                        return
                    await backoff.wait()
                except (StreamFull, PublishRefused) as error:
                    self._refused(requests, error, uncertain=uncertain)
                    return
                else:
                    self._stored(requests, headers, ack.seq)
                    return
        except asyncio.CancelledError:
            self._give_up(requests, uncertain=True)
            raise
        finally:
            self.in_flight = []

    def _stored(self, requests: list[Request], headers: BlockHeaders, sequence: int) -> None:
        self._number = headers.number
        self._total = headers.total
        self._metrics.readings_accepted.add(headers.count)
        self._metrics.blocks_published.add()
        for request in requests:
            if not request.stored.done():
                request.stored.set_result(None)
        log.info("ingest.published", subject=self.subject, sequence=sequence, readings=headers.count)

    def _refused(self, requests: list[Request], error: PlatformError, *, uncertain: bool) -> None:
        if uncertain:
            # An earlier try may have been stored after all: its number must not be used for anything else.
            self._give_up(requests, uncertain=True)
            return
        log.warning("ingest.refused", subject=self.subject, detail=str(error))
        answer: PlatformError = (
            Rejected("over_quota", "the organization's stream is full", retry_after_s=5)
            if isinstance(error, StreamFull)
            else Unavailable(f"{error}; nothing was stored")
        )
        for request in requests:
            request.fail(answer)

    def _give_up(self, requests: list[Request], *, uncertain: bool) -> None:
        log.warning("ingest.given_up", subject=self.subject, lane=self._id, number=self._number + 1)
        detail = "the outcome is unknown: the readings may be stored" if uncertain else "nothing was stored"
        for request in requests:
            request.fail(
                Unavailable(f"the stream is not reachable; {detail}", retry_after_s=5, outcome_unknown=uncertain)
            )
        self._renew()


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
            raise Unavailable("the platform is stopping; nothing was stored", retry_after_s=2)
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
            raise failures[0]

    def _submit(
        self, organization: Organization, partition: int, source: Source, readings: list[Reading], arrived_at: int
    ) -> Request:
        chunk = self._encode(readings)
        lane = self._lane(organization, partition, source)
        self._check_room(lane, len(chunk))
        return self._enqueue(lane, chunk, len(readings), arrived_at)

    def _encode(self, readings: list[Reading]) -> bytes:
        chunk = encode_readings(readings)
        if len(chunk) > self._limits.max_request_bytes:
            raise Rejected(
                "too_large",
                f"the readings take {len(chunk)} bytes as a block, more than the {self._limits.max_request_bytes} that the "
                "NATS server's max_payload leaves: send fewer readings in a request",
            )
        return chunk

    def _check_room(self, lane: Lane, size: int) -> None:
        if lane.is_full or self._waiting.bytes + size > self._limits.total_waiting_bytes:
            raise Unavailable("too many readings wait for the stream; nothing was stored", retry_after_s=1)

    def _enqueue(self, lane: Lane, chunk: bytes, count: int, arrived_at: int) -> Request:
        request = Request(chunk, count, arrived_at, self._clock() + self._limits.answer_after_s)
        lane.submit(request)
        if lane.task is None:
            lane.task = self._tasks.spawn(lane.work(), lane.subject)
        return request

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
        """Take nothing new, and wait until every lane has sent what it holds."""
        self._draining = True
        working = [lane.task for lane in self._lanes.values() if lane.task is not None]
        if working:
            await asyncio.wait(working, timeout=deadline_s)
        await self._tasks.stop()

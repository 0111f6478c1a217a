"""Lanes: the group commit of the door.

A lane takes the readings of one organization, partition and source. It has at most one block in flight; what arrives
meanwhile becomes the next block, and the stream's acknowledgement answers every request in it. An idle lane adds no
delay, a busy one commits in groups, and order is kept.

A block that was sent never changes: the same bytes go out under the same message id until they are acknowledged (a
duplicate is a success), and nothing overtakes it. At half the stream's dedup window it is given up; the lane goes on
under a new id, because a block of its old one may still be stored.

A request with an idempotency key is a block of its own, under an id that follows from the key. When the stream says
that it has this id already, the message it has tells whether an earlier try of this very block was stored, or an
earlier request: then the block's number is free for the next.
"""

from __future__ import annotations

import asyncio
import secrets
import time
from collections import deque
from typing import Final

import msgspec
import structlog

from iotplatform.adapters.nats.headers import TRACEPARENT, BlockHeaders
from iotplatform.adapters.nats.publisher import Ack, Publisher, PublishRefused, StreamFull
from iotplatform.adapters.nats.streams import DEDUP_WINDOW_S
from iotplatform.domain.reading import FORMAT_VERSION, join_block
from iotplatform.errors import PlatformError, Rejected, Unavailable
from iotplatform.observability.metrics import Metrics
from iotplatform.observability.span import Span, error_of
from iotplatform.roles.ingest.idempotency import KeyedPart, key_is_taken
from iotplatform.roles.ingest.request import Request
from iotplatform.roles.ingest.request_traces import begin_block
from iotplatform.runtime.backoff import Backoff

log = structlog.get_logger(role="ingest")

ACK_TIMEOUT_S: Final = 2.0
GIVE_UP_S: Final = DEDUP_WINDOW_S / 2


class LaneLimits(msgspec.Struct, frozen=True):
    """What a block and a lane may hold.

    One request may be larger than a block, up to what the server's max_payload leaves. A lane that was given nothing
    for `idle_s` never publishes again.
    """

    block_readings: int = 5_000
    block_bytes: int = 1 << 20
    waiting_readings: int = 50_000
    waiting_bytes: int = 16 << 20
    total_waiting_bytes: int = 128 << 20
    answer_after_s: float = 10.0
    idle_s: float = 600.0


class Waiting:
    """What waits in all the lanes of the process."""

    __slots__ = ("bytes",)

    def __init__(self) -> None:
        self.bytes = 0


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
        self.used_at = 0.0
        self.renew()

    def renew(self) -> None:
        self._id = secrets.token_hex(8)
        self._number = 0
        self._total = 0

    @property
    def is_full(self) -> bool:
        return (
            self.waiting_readings >= self._limits.waiting_readings or self.waiting_bytes >= self._limits.waiting_bytes
        )

    def is_idle(self, now: float) -> bool:
        return self.task is None and now - self.used_at > self._limits.idle_s

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
        block_bytes = min(self._limits.block_bytes, self._publisher.max_bytes)
        while self._waiting:
            request = self._waiting[0]
            if request.is_settled:  # its sender is gone, or has had its answer
                self._take()
                continue
            readings += request.count
            size += len(request.chunk)
            keyed = request.keyed is not None
            if block and (keyed or readings > self._limits.block_readings or size > block_bytes):
                break
            block.append(self._take())
            if keyed:
                break
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
        keyed = requests[0].keyed
        encoded, span = self._encode(headers, requests)
        self.in_flight = requests
        backoff = Backoff(0.05, 1.0)
        began = time.monotonic()
        give_up_at = began + GIVE_UP_S
        uncertain = False
        failure: str | None = None
        try:
            while True:
                try:
                    ack = await self._publisher.publish(self.subject, payload, encoded, timeout_s=ACK_TIMEOUT_S)
                    self._metrics.stream_ack.record(time.monotonic() - began)
                    if keyed is None or not ack.duplicate:
                        self._stored(requests, headers, ack, span)
                    else:
                        await self._duplicate(requests, headers, keyed, ack, span, uncertain=uncertain)
                    return
                except Unavailable as error:
                    uncertain = uncertain or error.outcome_unknown
                    if time.monotonic() < give_up_at:
                        await self._publisher.wait_to_retry(backoff.next_s())
                    # Looked at again: a process that was frozen meanwhile must not send what the window forgot.
                    if time.monotonic() >= give_up_at:
                        failure = error_of(error)
                        self._give_up(requests, uncertain=uncertain)
                        return
                except (StreamFull, PublishRefused) as error:
                    failure = error_of(error)
                    self._refused(requests, error, uncertain=uncertain)
                    return
        except asyncio.CancelledError as error:
            failure = error_of(error)
            self._give_up(requests, uncertain=True)
            raise
        finally:
            self.in_flight = []
            if span is not None:
                span.finish(failure)

    def _encode(self, headers: BlockHeaders, requests: list[Request]) -> tuple[dict[str, str], Span | None]:
        """The same for every try; with the span of a block that somebody traces."""
        encoded = headers.encode()
        keyed = requests[0].keyed
        if keyed is not None:
            encoded |= keyed.headers()
        tracer = self._metrics.tracer
        span = None if tracer is None else begin_block(tracer, requests, self.subject, headers.count)
        if span is not None:
            encoded[TRACEPARENT] = span.traceparent
        return encoded, span

    def _stored(self, requests: list[Request], headers: BlockHeaders, ack: Ack, span: Span | None) -> None:
        self._number = headers.number
        self._total = headers.total
        self._metrics.readings_accepted.add(headers.count)
        self._metrics.blocks_published.add()
        _succeed(requests, ack)
        said = log if span is None else log.bind(trace_id=span.trace_id)
        said.info("ingest.published", subject=self.subject, sequence=ack.seq, readings=headers.count)

    async def _duplicate(
        self,
        requests: list[Request],
        headers: BlockHeaders,
        keyed: KeyedPart,
        ack: Ack,
        span: Span | None,
        *,
        uncertain: bool,
    ) -> None:
        """The stream had the key already. `uncertain` says that an earlier try of this block may have brought it."""
        storer = keyed.storer(await self._publisher.find(ack), headers)
        if storer == "ours":
            self._stored(requests, headers, ack, span)
            return
        log.info("ingest.duplicate", subject=self.subject, sequence=ack.seq, stored_by=storer)
        if storer == "other":
            for request in requests:
                request.fail(key_is_taken())
            return
        if storer == "gone" and uncertain:
            # Nobody can tell any more whether it was this block, and then its number is used.
            self.renew()
        _succeed(requests, ack)

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
        self.renew()


def _succeed(requests: list[Request], ack: Ack) -> None:
    for request in requests:
        request.succeed(ack)

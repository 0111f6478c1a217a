"""One reader: its place in a durable consumer, and whether what arrives is what comes next.

A reader never naks and never trusts the acknowledgement floor. At every start and after every fault it resets the
consumer to the stored position + 1, ignores deliveries until the consumer's sequence is 1 again, and from there on
requires each sequence to follow the one before. Pulls from before the reset still wait at the server and are served by
it, even before its answer is here: so the first delivery is expected from the moment at which the reset is asked for.
Tried on nats-server 2.15.1: without the reset, the new holder of a
pinned consumer sees later messages before the earlier ones that the old holder had not acknowledged.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Mapping
from typing import Final, Literal

import msgspec
from nats.aio.msg import Msg

PULL_MESSAGES: Final = 200
PULL_BYTES: Final = 16 << 20
PULL_EXPIRES_S: Final = 8.0
# Shorter than it takes until a holder that is frozen is taken for dead: what still waits of it then is told by its old
# pin, but a pull without one would get the pin, and keep it until its time-out. It needs no heartbeat.
UNPINNED_EXPIRES_S: Final = 4.0
HEARTBEAT_S: Final = 3.0


class Delivery(msgspec.Struct, frozen=True):
    """A message in its place: `sequence` in the stream, `stored_at` in microseconds."""

    sequence: int
    stored_at: int
    subject: str
    headers: Mapping[str, str]
    data: bytes
    reply: str


class AckReply(msgspec.Struct, frozen=True):
    """What the reply subject of a delivered message says."""

    stream: str
    consumer: str
    stream_sequence: int
    consumer_sequence: int
    stored_at: int
    pending: int

    @classmethod
    def parse(cls, reply: str) -> AckReply | None:
        tokens = reply.split(".")
        if len(tokens) < 9 or tokens[1] != "ACK":
            return None
        # With a domain and an account hash in front there are three tokens more.
        stream, consumer, _, sseq, cseq, stored_ns, pending = tokens[2:9] if len(tokens) == 9 else tokens[4:11]
        return cls(stream, consumer, int(sseq), int(cseq), int(stored_ns) // 1_000, int(pending))


class Reader:
    """`acquire` takes hold of the stored position and returns it; it may raise Unavailable and is then called again."""

    def __init__(
        self,
        stream: str,
        consumer: str,
        acquire: Callable[[], Awaitable[int]],
        make: Callable[[], Awaitable[None]] | None = None,
    ) -> None:
        self.stream = stream
        self.consumer = consumer
        self.acquire = acquire
        self.make = make
        self.state: Literal["closed", "opening", "expecting_first", "open", "removed"] = "closed"
        self.position = 0
        self.pin = ""
        self.outstanding = 0
        self.pending = 0
        self.buffer: deque[Delivery] = deque()
        self.oldest_at: int | None = None
        self.in_hand = 0
        self.seen_at = 0.0
        self.next_consumer_sequence = 1
        self.last_sequence = 0
        # Reply subjects of the last delivery that came, and of the last one that was acknowledged.
        self.last_reply = ""
        self.last_acknowledged = ""
        self.reset_at = 0.0
        # Set while no task is opening it.
        self.at_rest = asyncio.Event()
        self.at_rest.set()
        self.again = False
        self.confirmed = False
        self.idle = asyncio.Event()
        self.idle.set()
        # Somebody waits to have it for himself: the next turn is not the batch's.
        self.is_wanted = False

    @property
    def name(self) -> str:
        return f"{self.stream}.{self.consumer}"

    def expect_first(self, position: int, now: float) -> None:
        self.position = self.last_sequence = position
        self.next_consumer_sequence = 1
        self.outstanding = 0
        self.seen_at = now
        self.buffer.clear()
        self.confirmed = False
        self.state = "expecting_first"

    def close(self) -> None:
        self.state = "closed"
        self.buffer.clear()
        self.outstanding = 0

    def accept(self, message: Msg, place: AckReply, now: float) -> Literal["queued", "ignored", "gap"]:
        """Take a delivery into the buffer if it is the one that comes next."""
        self.seen_at = now
        # Whatever becomes of it, some pull of ours has been served by it.
        self.outstanding = max(0, self.outstanding - 1)
        self.last_reply = message.reply
        headers = message.headers or {}
        pin = headers.get("Nats-Pin-Id", self.pin)
        if self.state == "expecting_first":
            if place.stream_sequence <= self.position:
                return "ignored"
            if place.consumer_sequence != 1:
                # Before the server has confirmed the reset these are deliveries of the time before it.
                return "gap" if self.confirmed else "ignored"
            self.state = "open"
        elif self.state != "open":
            return "ignored"
        elif pin != self.pin:
            # Somebody else has reset the consumer and read from it since: its sequence began anew as well, and may
            # just have come to where ours is.
            return "gap"
        # One that was given back comes with the next number, but out of turn.
        if place.consumer_sequence != self.next_consumer_sequence or place.stream_sequence <= self.last_sequence:
            return "gap"
        self.pin = pin
        self.next_consumer_sequence += 1
        self.last_sequence = place.stream_sequence
        self.pending = place.pending
        self.buffer.append(
            Delivery(place.stream_sequence, place.stored_at, message.subject, headers, message.data, message.reply)
        )
        return "queued"

    def pull_body(self, messages: int) -> bytes:
        body: dict[str, object] = {
            "batch": messages,
            "max_bytes": PULL_BYTES,
            "expires": int((PULL_EXPIRES_S if self.pin else UNPINNED_EXPIRES_S) * 1e9),
            "group": "holder",
        }
        if self.pin:
            body["id"] = self.pin
            body["idle_heartbeat"] = int(HEARTBEAT_S * 1e9)
        return msgspec.json.encode(body)

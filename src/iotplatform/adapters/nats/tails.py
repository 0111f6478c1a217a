"""The ends of streams, for who follows them without a consumer: what is new is waited for together, and read once."""

from __future__ import annotations

import asyncio
import datetime as dt
import time
from bisect import bisect_right
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Final, Generic, Protocol, TypeVar

import msgspec
from nats.aio.msg import Msg

from iotplatform.adapters.nats.api import JetStreamApi
from iotplatform.adapters.nats.connection import Connection
from iotplatform.domain.timestamps import to_microseconds
from iotplatform.errors import Unavailable

LOOK_EVERY_S: Final = 0.25
BATCH_MESSAGES: Final = 64
BATCH_BYTES: Final = 1 << 20
SHARED_MESSAGES: Final = 2 * BATCH_MESSAGES
SHARED_FOR_S: Final = 1.0
NOTHING_FOR_S: Final = 0.05


class Sequenced(Protocol):
    @property
    def sequence(self) -> int: ...


T = TypeVar("T", bound=Sequenced)


class Stored(msgspec.Struct, frozen=True):
    """A message in its stream; `stored_at` in microseconds."""

    sequence: int
    stored_at: int
    headers: Mapping[str, str]
    data: bytes


class Tail(Generic[T]):
    """One subject of one stream. However many follow it, one question every quarter of a second tells them all, and who
    is as far as another reads what that one has read. `view` makes of a message what they are to share.
    """

    def __init__(self, connection: Connection, stream: str, subject: str, view: Callable[[Stored], T]) -> None:
        self._api = JetStreamApi(connection)
        self._stream = stream
        self._subject = subject
        self._view = view
        self._newest = 0
        self._waiting: dict[asyncio.Event, int] = {}
        self._shared = Window[T]()
        self.followers = 0

    async def bounds(self) -> tuple[int, int]:
        """The sequences of the oldest and of the newest message that the stream has, of whatever subject.

        Raises:
            Unavailable: JetStream is away.
            ApiError: there is no such stream.
        """
        state = (await self._api.call(f"STREAM.INFO.{self._stream}"))["state"]
        return int(state["first_seq"]), int(state["last_seq"])

    async def read(self, after: int) -> Sequence[T]:
        """The next messages after this sequence, as many as are read at once; none when there are none.

        Raises:
            Unavailable: JetStream is away, or the stream is no more.
        """
        if self.followers <= 1:
            return await self._fetch(after)
        return await self._shared.read(after, self._fetch)

    async def _fetch(self, after: int) -> list[T]:
        query = {"seq": after + 1, "batch": BATCH_MESSAGES, "max_bytes": BATCH_BYTES, "next_by_subj": self._subject}
        messages, _ = await self._api.get_batch(self._stream, query)
        return [self._view(_stored(message)) for message in messages]

    def expect(self, after: int, wake: asyncio.Event) -> None:
        """Set `wake` as soon as there is a message after this sequence."""
        if self._newest > after:
            wake.set()
        else:
            self._waiting[wake] = after

    def forget(self, wake: asyncio.Event) -> None:
        self._waiting.pop(wake, None)

    async def look(self) -> None:
        """Once, for all that wait; without an answer they go on waiting."""
        self._shared.forget_old()
        if not self._waiting:
            return
        since = max(min(self._waiting.values()), self._newest)
        try:
            found = await self._api.get(self._stream, {"seq": since + 1, "next_by_subj": self._subject})
        except Unavailable:
            return
        if found is not None:
            self._newest = found.sequence
        for wake in [wake for wake, after in self._waiting.items() if after < self._newest]:
            del self._waiting[wake]
            wake.set()


class Window(Generic[T]):
    """The messages that were read last, for those that come to them a moment later; not many, and not for long.

    Who is behind it reads for itself: that would drive out what all others share.
    """

    def __init__(self) -> None:
        # All that the stream has beyond `_after` up to the last of these.
        self._after = 0
        self._messages: list[T] = []
        self._read_at = self._nothing_at = 0.0
        self._locks: dict[int, asyncio.Lock] = {}

    async def read(self, after: int, fetch: Callable[[int], Awaitable[list[T]]]) -> Sequence[T]:
        if (known := self._known(after)) is not None:
            return known
        lock = self._locks.setdefault(after, asyncio.Lock())
        try:
            async with lock:
                if (known := self._known(after)) is not None:
                    return known
                found = await fetch(after)
                self._keep(after, found)
                return found
        finally:
            self._locks.pop(after, None)

    def forget_old(self) -> None:
        if time.monotonic() - self._read_at > SHARED_FOR_S:
            self._after, self._messages = self._last, []

    @property
    def _last(self) -> int:
        return self._messages[-1].sequence if self._messages else self._after

    def _known(self, after: int) -> Sequence[T] | None:
        if self._after <= after < self._last:
            return self._messages[bisect_right(self._messages, after, key=_sequence_of) :]
        # That there was nothing is true for a moment only; who waits is told as soon as that has changed.
        if after == self._last and time.monotonic() - self._nothing_at < NOTHING_FOR_S:
            return ()
        return None

    def _keep(self, after: int, found: list[T]) -> None:
        if after < self._last:
            return
        if after > self._last:
            self._after, self._messages = after, []
        self._messages += found
        self._read_at = time.monotonic()
        if not found:
            self._nothing_at = self._read_at
        if len(self._messages) > SHARED_MESSAGES:
            self._after = self._messages[-SHARED_MESSAGES - 1].sequence
            self._messages = self._messages[-SHARED_MESSAGES:]


def _sequence_of(message: Sequenced) -> int:
    return message.sequence


class Tails(Generic[T]):
    """All that are followed by anybody. `run` looks at them until it is cancelled."""

    def __init__(self, connection: Connection, view: Callable[[Stored], T]) -> None:
        self._connection = connection
        self._view = view
        self._tails: dict[tuple[str, str, int], Tail[T]] = {}

    @contextmanager
    def follow(self, stream: str, subject: str, epoch: int, wake: asyncio.Event) -> Iterator[Tail[T]]:
        """`epoch`: a stream that was made again under the same name shares nothing with the one of before."""
        key = (stream, subject, epoch)
        tail = self._tails.setdefault(key, Tail(self._connection, stream, subject, self._view))
        tail.followers += 1
        try:
            yield tail
        finally:
            tail.forget(wake)
            tail.followers -= 1
            if tail.followers == 0:
                del self._tails[key]

    async def run(self) -> None:
        while True:
            await asyncio.sleep(LOOK_EVERY_S)
            await asyncio.gather(*(tail.look() for tail in list(self._tails.values())))


def _stored(message: Msg) -> Stored:
    headers = message.headers or {}
    at = dt.datetime.fromisoformat(headers["Nats-Time-Stamp"])
    return Stored(int(headers["Nats-Sequence"]), to_microseconds(at), headers, message.data)

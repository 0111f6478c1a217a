"""The ends of streams, for who follows them without a consumer: what is new is read, and waited for together."""

from __future__ import annotations

import asyncio
import datetime as dt
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Final

import msgspec
from nats.aio.msg import Msg

from iotplatform.adapters.nats.api import JetStreamApi
from iotplatform.adapters.nats.connection import Connection
from iotplatform.domain.timestamps import to_microseconds
from iotplatform.errors import Unavailable

LOOK_EVERY_S: Final = 0.25
BATCH_MESSAGES: Final = 64
BATCH_BYTES: Final = 1 << 20


class Stored(msgspec.Struct, frozen=True):
    """A message in its stream; `stored_at` in microseconds."""

    sequence: int
    stored_at: int
    headers: Mapping[str, str]
    data: bytes


class Tail:
    """One subject of one stream. However many follow it, one question every quarter of a second tells them all."""

    def __init__(self, connection: Connection, stream: str, subject: str) -> None:
        self._api = JetStreamApi(connection)
        self._stream = stream
        self._subject = subject
        self._newest = 0
        self._waiting: dict[asyncio.Event, int] = {}
        self.followers = 0

    async def bounds(self) -> tuple[int, int]:
        """The sequences of the oldest and of the newest message that the stream has, of whatever subject.

        Raises:
            Unavailable: JetStream is away.
            ApiError: there is no such stream.
        """
        state = (await self._api.call(f"STREAM.INFO.{self._stream}"))["state"]
        return int(state["first_seq"]), int(state["last_seq"])

    async def read(self, after: int) -> list[Stored]:
        """The next messages after this sequence, as many as are read at once; none when there are none.

        Raises:
            Unavailable: JetStream is away, or the stream is no more.
        """
        query = {"seq": after + 1, "batch": BATCH_MESSAGES, "max_bytes": BATCH_BYTES, "next_by_subj": self._subject}
        messages, _ = await self._api.get_batch(self._stream, query)
        return [_stored(message) for message in messages]

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


class Tails:
    """All that are followed by anybody. `run` looks at them until it is cancelled."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._tails: dict[tuple[str, str], Tail] = {}

    @contextmanager
    def follow(self, stream: str, subject: str, wake: asyncio.Event) -> Iterator[Tail]:
        key = (stream, subject)
        tail = self._tails.setdefault(key, Tail(self._connection, stream, subject))
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

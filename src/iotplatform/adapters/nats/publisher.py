"""Publishing with acknowledgements of our own.

One inbox receives the acknowledgements of every message; a token in the reply subject says which. nats-py's own calls
make a task, a timer and a uuid for each message, and leave futures unresolved when the server dies.
"""

from __future__ import annotations

import asyncio
import secrets
from typing import Final

import msgspec
from nats.aio.msg import Msg

from iotplatform.adapters.nats.api import JetStreamApi, StoredMessage
from iotplatform.adapters.nats.connection import Connection
from iotplatform.errors import PlatformError, Unavailable

_STREAM_FULL: Final = frozenset({10167, 10122})  # too many buffered, rate
# With "maximum bytes exceeded" or "maximum messages exceeded", or with what the disk said.
_STORE_FAILED: Final = 10077

# Of the server's max_payload, for headers and what surrounds the readings of a block.
HEADERS_BYTES: Final = 16 << 10


class Ack(msgspec.Struct, frozen=True):
    stream: str
    seq: int
    duplicate: bool = False


class _ApiError(msgspec.Struct, frozen=True):
    code: int = 500
    err_code: int = 0
    description: str = ""


class _PubAck(msgspec.Struct, frozen=True):
    stream: str = ""
    seq: int = 0
    duplicate: bool = False
    error: _ApiError | None = None


class NoStream(Unavailable):
    """No stream takes the subject: there is none, or not yet, or JetStream is away."""


class StreamFull(PlatformError):
    """The stream has reached its limit and refused the message; nothing was stored by this publish."""


class PublishRefused(PlatformError):
    """The stream refused the message for another reason; nothing was stored by this publish."""

    def __init__(self, code: int, description: str) -> None:
        super().__init__(f"the stream refused the message: {description} ({code})")
        self.code = code


_decoder = msgspec.json.Decoder(_PubAck)


class Publisher:
    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._api = JetStreamApi(connection)
        self._prefix = f"_INBOX.iotpub.{secrets.token_hex(8)}."
        self._waiting: dict[str, asyncio.Future[Ack]] = {}
        self._next = 0

    async def start(self) -> None:
        await self._connection.subscribe(f"{self._prefix}*", self._acknowledged)
        self._connection.on_lost(self._fail_all)

    @property
    def max_bytes(self) -> int:
        """What a payload may have, so that it fits the server's max_payload together with its headers."""
        return self._connection.max_payload - HEADERS_BYTES

    async def wait_to_retry(self, delay_s: float) -> None:
        """Wait for `delay_s`; without a connection until there is one again, but no longer than a second."""
        if self._connection.is_connected:
            await asyncio.sleep(delay_s)
        else:
            await self._connection.wait_connected(1.0)

    async def publish(self, subject: str, payload: bytes, headers: dict[str, str], *, timeout_s: float) -> Ack:
        """Publish and wait for the stream's acknowledgement.

        Raises:
            Unavailable: not connected (nothing was sent), or no acknowledgement in time (`outcome_unknown`).
            StreamFull, PublishRefused: the stream said no.
        """
        if len(payload) + _size_of(headers) > self._connection.max_payload:
            # nats-server would cut the connection, and with it everything that is under way.
            raise PublishRefused(0, f"{len(payload)} bytes are more than the NATS server's max_payload leaves")
        token = str(self._next)
        self._next += 1
        future: asyncio.Future[Ack] = asyncio.get_running_loop().create_future()
        self._waiting[token] = future
        timer = asyncio.get_running_loop().call_later(timeout_s, _expire, future)
        try:
            await self._connection.publish(subject, payload, reply=self._prefix + token, headers=headers)
            return await future
        finally:
            timer.cancel()
            self._waiting.pop(token, None)
            if future.done() and not future.cancelled():
                future.exception()  # seen, even when the publish itself failed first

    async def find(self, ack: Ack) -> StoredMessage | None:
        """The message that an acknowledgement speaks of; None when it is stored no longer.

        Raises:
            Unavailable: JetStream is away.
        """
        return await self._api.get(ack.stream, {"seq": ack.seq})

    async def _acknowledged(self, message: Msg) -> None:
        future = self._waiting.get(message.subject[len(self._prefix) :])
        if future is None or future.done():
            return
        if message.headers and "Status" in message.headers:
            future.set_exception(NoStream("no stream takes this subject"))
            return
        try:
            answer = _decoder.decode(message.data)
        except (msgspec.DecodeError, UnicodeDecodeError):
            future.set_exception(Unavailable("an answer that is no acknowledgement", outcome_unknown=True))
            return
        if answer.error is None:
            future.set_result(Ack(answer.stream, answer.seq, answer.duplicate))
        else:
            future.set_exception(_refusal(answer.error))

    def _fail_all(self) -> None:
        for future in list(self._waiting.values()):
            if not future.done():
                future.set_exception(Unavailable("the connection to NATS was lost", outcome_unknown=True))


def _refusal(error: _ApiError) -> PlatformError:
    full = error.err_code == _STORE_FAILED and "maximum" in error.description
    if full or error.err_code in _STREAM_FULL:
        return StreamFull(error.description)
    if error.code >= 500:
        return Unavailable(f"JetStream: {error.description}")
    return PublishRefused(error.err_code, error.description)


def _size_of(headers: dict[str, str]) -> int:
    # "NATS/1.0", then "name: value" of each, every line with its end, and an empty line.
    return 12 + sum(len(name) + len(value) + 4 for name, value in headers.items())


def _expire(future: asyncio.Future[Ack]) -> None:
    if not future.done():
        future.set_exception(Unavailable("the stream did not acknowledge in time", outcome_unknown=True))

"""A client of MQTT 3.1.1 that publishes with QoS 1 and nothing else, small enough for thousands in one process."""

from __future__ import annotations

import asyncio
import ssl
from typing import Final, cast
from urllib.parse import urlsplit

from iotplatform.errors import PlatformError, Unavailable

KEEP_ALIVE_S: Final = 60
CONNECT_TIMEOUT_S: Final = 30.0
_PINGREQ: Final = b"\xc0\x00"
_DISCONNECT: Final = b"\xe0\x00"
_CONNACK, _PUBACK = 0x20, 0x40
_REFUSALS: Final = {1: "the version", 2: "the client id", 3: "for now", 4: "the credentials", 5: "the client"}


class MqttClient(asyncio.Protocol):
    """`publish` returns when the server has acknowledged."""

    def __init__(self) -> None:
        loop = asyncio.get_running_loop()
        self._loop = loop
        self._transport: asyncio.Transport | None = None
        self._connected: asyncio.Future[None] = loop.create_future()
        self._waiting: dict[int, asyncio.Future[None]] = {}
        self._next = 0
        self._buffer = bytearray()
        self._ping: asyncio.TimerHandle | None = None
        self.is_lost = False

    @classmethod
    async def connect(cls, url: str, client_id: str, *, token: str | None = None) -> MqttClient:
        """Raises:
        Unavailable: it can't be reached.
        PlatformError: it refuses us.
        """
        parts = urlsplit(url)
        secure = parts.scheme == "mqtts"
        context = ssl.create_default_context() if secure else None
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(CONNECT_TIMEOUT_S):
                port = parts.port or (8883 if secure else 1883)
                _, made = await loop.create_connection(cls, parts.hostname or "", port, ssl=context)
                await made.introduce(client_id, token)
        except TimeoutError as error:
            raise Unavailable(f"cannot reach {url}: no answer in time") from error
        except OSError as error:
            raise Unavailable(f"cannot reach {url}: {error.strerror or error}") from error
        return made

    async def introduce(self, client_id: str, token: str | None) -> None:
        self._send(_connect_packet(client_id, token))
        await self._connected

    async def publish(self, topic: str, body: bytes) -> None:
        """Raises:
        Unavailable: the connection was lost before the server said that it has the message.
        """
        if self.is_lost:
            raise Unavailable("the connection was lost")
        self._next = self._next % 65_535 + 1
        number = self._next
        waiting = self._waiting[number] = self._loop.create_future()
        self._send(_publish_packet(topic, body, number))
        await waiting

    def close(self) -> None:
        if self._transport is not None and not self.is_lost:
            self._send(_DISCONNECT)
            self._transport.close()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)

    def connection_lost(self, exc: Exception | None) -> None:
        self.is_lost = True
        if self._ping is not None:
            self._ping.cancel()
        error = Unavailable(f"the connection was lost{f': {exc}' if exc else ''}", outcome_unknown=True)
        for waiting in (self._connected, *self._waiting.values()):
            if not waiting.done():
                waiting.set_exception(error)
                waiting.exception()
        self._waiting.clear()

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        # All that we are sent is shorter than 128 bytes, but for messages, which we never subscribe to.
        while len(self._buffer) >= 2 and len(self._buffer) >= 2 + self._buffer[1]:
            end = 2 + self._buffer[1]
            self._take(self._buffer[0] & 0xF0, bytes(self._buffer[2:end]))
            del self._buffer[:end]

    def _take(self, kind: int, content: bytes) -> None:
        if kind == _PUBACK:
            waiting = self._waiting.pop(int.from_bytes(content[:2], "big"), None)
            if waiting is not None and not waiting.done():
                waiting.set_result(None)
        elif kind == _CONNACK and not self._connected.done():
            if content[1]:
                self._connected.set_exception(PlatformError(f"MQTT refuses {_REFUSALS.get(content[1], 'us')}"))
            else:
                self._connected.set_result(None)
                self._keep_alive()

    def _keep_alive(self) -> None:
        self._ping = self._loop.call_later(KEEP_ALIVE_S / 2, self._keep_alive)
        self._send(_PINGREQ)

    def _send(self, packet: bytes) -> None:
        if self._transport is not None:
            self._transport.write(packet)


def _connect_packet(client_id: str, token: str | None) -> bytes:
    flags = 0x02 | (0xC0 if token else 0)
    content = _text("MQTT") + bytes((4, flags)) + KEEP_ALIVE_S.to_bytes(2, "big") + _text(client_id)
    if token:
        content += _text("device") + _text(token)
    return b"\x10" + _length(len(content)) + content


def _publish_packet(topic: str, body: bytes, number: int) -> bytes:
    content = _text(topic) + number.to_bytes(2, "big") + body
    return b"\x32" + _length(len(content)) + content


def _text(text: str) -> bytes:
    encoded = text.encode()
    return len(encoded).to_bytes(2, "big") + encoded


def _length(length: int) -> bytes:
    encoded = bytearray()
    while True:
        length, digit = divmod(length, 128)
        encoded.append(digit | (0x80 if length else 0))
        if not length:
            return bytes(encoded)

"""What devices send that no stream keeps: messages of MQTT with QoS 0, and requests of NATS."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final

import structlog
from nats.aio.msg import Msg

from iotplatform.adapters.nats.connection import Connection
from iotplatform.errors import Unavailable

log = structlog.get_logger(role="ingest")

QUEUE: Final = "ingest"
_LIVE: Final = "iot.>"
_REQUESTS: Final = "intake.*.*"
# nats-server says here with which QoS a client of MQTT has published. What has more than 0 is in INTAKE as well.
_QOS: Final = "Nmqtt-Pub"


class DeviceMessages:
    """Shared by the processes of the role: each message comes to one of them."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    async def on_live(self, callback: Callable[[str, bytes], None]) -> None:
        """`callback` is called with subject and body, and must not raise."""

        async def received(message: Msg) -> None:
            headers = message.headers
            if headers is not None and headers.get(_QOS) == "0":
                callback(message.subject, message.data)

        await self._connection.subscribe(_LIVE, received, queue=QUEUE)

    async def on_request(self, callback: Callable[[str, bytes, Mapping[str, str], str], None]) -> None:
        """`callback` is called with subject, body, headers and where to answer, and must not raise."""

        async def received(message: Msg) -> None:
            callback(message.subject, message.data, message.headers or {}, message.reply)

        await self._connection.subscribe(_REQUESTS, received, queue=QUEUE)

    async def answer(self, reply: str, body: bytes) -> None:
        try:
            await self._connection.publish(reply, body)
        except Unavailable as error:
            # The device asks again, with its key if it has given one.
            log.debug("ingest.not_answered", detail=error.detail)

    async def stop(self) -> None:
        for subject in (_LIVE, _REQUESTS):
            await self._connection.unsubscribe(subject)

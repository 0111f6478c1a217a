"""JetStream's JSON API: what nats-py has no calls for, or slow ones."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from typing import Any, Final

import msgspec
from nats.aio.msg import Msg

from iotplatform.adapters.nats.connection import Connection
from iotplatform.errors import PlatformError, Unavailable

NOT_FOUND_STREAM: Final = 10059
NOT_FOUND_CONSUMER: Final = 10014
NOT_FOUND_MESSAGE: Final = 10037
_RETRYABLE: Final = frozenset({503, 408})


class ApiError(PlatformError):
    """JetStream answered a request with an error of its own."""

    def __init__(self, subject: str, code: int, description: str) -> None:
        super().__init__(f"JetStream refused {subject}: {description} ({code})")
        self.code = code


class StoredMessage(msgspec.Struct, frozen=True):
    sequence: int
    subject: str
    headers: Mapping[str, str]
    data: bytes


class JetStreamApi:
    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    async def call(
        self, operation: str, body: Mapping[str, Any] | None = None, *, timeout_s: float = 10.0
    ) -> dict[str, Any]:
        """The answer to `$JS.API.<operation>`.

        Raises:
            Unavailable: JetStream is away or asks to come back.
            ApiError: it said no.
        """
        payload = msgspec.json.encode(body) if body is not None else b""
        message = await self._connection.request(f"$JS.API.{operation}", payload, timeout_s=timeout_s)
        answer: dict[str, Any] = msgspec.json.decode(message.data)
        if error := answer.get("error"):
            if error.get("code") in _RETRYABLE:
                raise Unavailable(f"JetStream: {error.get('description')}")
            raise ApiError(operation, error.get("err_code", 0), error.get("description", ""))
        return answer

    async def last(self, stream: str, subject: str) -> StoredMessage | None:
        """The last message of a subject as the stream's leader has it, None when there is none.

        A replica may be behind; whoever goes on from what was stored last must not be told what was stored before.
        """
        try:
            answer = await self.call(f"STREAM.MSG.GET.{stream}", {"last_by_subj": subject})
        except ApiError as error:
            if error.code == NOT_FOUND_MESSAGE:
                return None
            raise
        found = answer["message"]
        headers = _parse_headers(base64.b64decode(found.get("hdrs", "")))
        return StoredMessage(found["seq"], found["subject"], headers, base64.b64decode(found.get("data", "")))

    async def get(self, stream: str, query: Mapping[str, Any]) -> StoredMessage | None:
        """One stored message, None when there is none.

        `query` is such as `{"seq": n}`, `{"last_by_subj": s}` or `{"next_by_subj": s, "seq": n}`.
        """
        message = await self._connection.request(f"$JS.API.DIRECT.GET.{stream}", msgspec.json.encode(query))
        headers = message.headers or {}
        status = headers.get("Status")
        if status in {"404", "408"}:
            return None
        if status:
            raise Unavailable(f"JetStream: {headers.get('Description', status)}")
        return StoredMessage(int(headers["Nats-Sequence"]), headers["Nats-Subject"], headers, message.data)

    async def get_batch(self, stream: str, query: Mapping[str, Any]) -> tuple[list[Msg], Mapping[str, str]]:
        """Stored messages with their sequence, time and subject as headers, and the headers of the end of the batch.

        `query` is such as `{"seq": n, "next_by_subj": s, "batch": most, "max_bytes": bytes}`.
        """
        *messages, end = await self._connection.request_many(
            f"$JS.API.DIRECT.GET.{stream}", msgspec.json.encode(query), is_last=_is_end
        )
        return messages, end.headers or {}


def _is_end(message: Msg) -> bool:
    return bool(message.headers and "Status" in message.headers)


def _parse_headers(data: bytes) -> dict[str, str]:
    lines = data.decode("utf-8", "replace").split("\r\n")[1:]
    return {name: value.strip() for name, _, value in (line.partition(":") for line in lines) if name}

"""Commands on their way to devices, and the replies. One process of the role sends; every one takes replies."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Callable
from typing import Any, Final

import msgspec
import structlog

from iotplatform.adapters.nats.connection import Connection
from iotplatform.adapters.postgres.command_delivery import CommandDelivery, DueCommand, Reply
from iotplatform.domain.organization import Organization
from iotplatform.domain.timestamps import format_timestamp, to_microseconds
from iotplatform.errors import Unavailable
from iotplatform.roles.ingest.message import Topic

log = structlog.get_logger(role="ingest")

LOOK_EVERY_S: Final = 0.5
MAX_ANSWER_BYTES: Final = 64 << 10
_STATES: Final[dict[str, Reply]] = {"acknowledged": "acknowledged", "answered": "answered", "failed": "failed"}


class _Sent(msgspec.Struct, frozen=True):
    """What a device gets."""

    id: str
    name: str
    payload: msgspec.Raw
    created_at: str
    expires_at: str


class CommandSender:
    def __init__(self, delivery: CommandDelivery, connection: Connection, is_owner: Callable[[], bool]) -> None:
        self._delivery = delivery
        self._connection = connection
        self._is_owner = is_owner

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            await asyncio.sleep(LOOK_EVERY_S)
            if not self._is_owner() or not self._connection.is_connected:
                continue
            try:
                await self._delivery.expire()
                for due in await self._delivery.take():
                    await self._send(due)
            except Unavailable as error:
                log.debug("commands.waiting", detail=error.detail)

    async def _send(self, due: DueCommand) -> None:
        message = _Sent(
            id=str(due.id),
            name=due.name,
            payload=due.payload,
            created_at=format_timestamp(to_microseconds(due.created_at)),
            expires_at=format_timestamp(to_microseconds(due.expires_at)),
        )
        subject = f"iot.{due.organization_id}.{due.device_id}.commands.{due.id}"
        await self._connection.publish(subject, msgspec.json.encode(message))
        log.info("commands.sent", organization=due.organization_id, device=due.device_id, command=str(due.id))

    async def reply(self, organization: Organization, topic: Topic, body: bytes) -> None:
        """Raises:
        Unavailable: PostgreSQL is away; call again.
        """
        try:
            command_id = uuid.UUID(topic.levels[1])
        except ValueError:
            return
        reply, answer = read_reply(body)
        await self._delivery.reply(organization.epoch, topic.device_id, command_id, reply, answer)


def read_reply(body: bytes) -> tuple[Reply, Any]:
    """An empty body acknowledges; `{"state": …, "answer": …}` says more; anything else is the answer itself."""
    if not body.strip():
        return "acknowledged", None
    if len(body) > MAX_ANSWER_BYTES:
        return "failed", f"the answer is larger than {MAX_ANSWER_BYTES} bytes"
    try:
        # Nested deeply, it can be decoded and then not be looked through.
        decoded: Any = _storable(msgspec.json.decode(body.decode()))
        msgspec.json.encode(decoded)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        # PostgreSQL's texts hold no NUL.
        return "answered", body.decode("utf-8", "replace").replace("\x00", "")
    if isinstance(decoded, dict) and isinstance(decoded.get("state"), str) and decoded["state"] in _STATES:
        return _STATES[decoded["state"]], decoded.get("answer")
    return "answered", decoded


def _storable(value: Any) -> Any:
    if isinstance(value, str):
        return value.replace("\x00", "")
    if isinstance(value, dict):
        return {_storable(key): _storable(each) for key, each in value.items()}
    if isinstance(value, list):
        return [_storable(each) for each in value]
    return value

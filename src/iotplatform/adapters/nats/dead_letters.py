"""Dead letters: what was accepted and can't be used, kept with its reason."""

from __future__ import annotations

from typing import Final

import msgspec
from nats.aio.msg import Msg

from iotplatform.adapters.nats import subjects
from iotplatform.adapters.nats.api import JetStreamApi
from iotplatform.adapters.nats.connection import Connection
from iotplatform.adapters.nats.headers import MSG_ID
from iotplatform.adapters.nats.publisher import Publisher, PublishRefused, StreamFull
from iotplatform.domain.dead_letter import DeadLetter
from iotplatform.domain.organization import Organization
from iotplatform.errors import Unavailable

PUBLISH_TIMEOUT_S: Final = 5.0


class DeadLetters:
    def __init__(self, connection: Connection, publisher: Publisher) -> None:
        self._connection = connection
        self._api = JetStreamApi(connection)
        self._publisher = publisher

    async def put(self, organization_id: str, epoch: int, role: str, letter: DeadLetter) -> None:
        """Returns when the letter is stored. The same letter put again within the dedup window changes nothing.

        Raises:
            Unavailable: try again; the position must not move before.
        """
        subject = subjects.dead_letter_subject(organization_id, epoch, role)
        headers = {MSG_ID: f"{epoch}.{letter.id}"}
        encoded = _encode(letter, self._publisher.max_bytes)
        try:
            await self._publisher.publish(subject, encoded, headers, timeout_s=PUBLISH_TIMEOUT_S)
        except (StreamFull, PublishRefused) as error:
            raise Unavailable(f"{subjects.DEADLETTER}: {error}", retry_after_s=5) from error

    async def list(self, organization: Organization, limit: int, after: int) -> list[tuple[int, DeadLetter]]:
        """Up to `limit` letters in the order of their arrival, each with its place; `after` is the place to go on from.

        Raises:
            Unavailable: JetStream is away.
        """
        query = {
            "seq": after + 1,
            "batch": limit,
            "next_by_subj": subjects.dead_letter_subject(organization.id, organization.epoch, "*"),
        }
        answers = await self._connection.request_many(
            f"$JS.API.DIRECT.GET.{subjects.DEADLETTER}", msgspec.json.encode(query), is_last=_is_status
        )
        return [
            (int(message.headers["Nats-Sequence"]), msgspec.json.decode(message.data, type=DeadLetter))
            for message in answers
            if message.headers and not _is_status(message)
        ]


def _encode(letter: DeadLetter, max_bytes: int) -> bytes:
    """The letter; one that the server would not take loses the end of its payload rather than hold up a partition."""
    encoded = msgspec.json.encode(letter)
    surplus = len(encoded) - max_bytes
    if surplus <= 0:
        return encoded
    detail = f"{letter.detail} (the payload was too large for a letter, and is cut off)"
    # What JSON has to escape takes up to six bytes a character; base64, in groups of four, takes one.
    kept = len(letter.payload) - surplus - len(detail) if letter.encoding == "base64" else max_bytes // 8
    return msgspec.json.encode(msgspec.structs.replace(letter, detail=detail, payload=letter.payload[: kept // 4 * 4]))


def _is_status(message: Msg) -> bool:
    return bool(message.headers and "Status" in message.headers)

"""What a stream still keeps of a partition, read once more beside its durable readers."""

from __future__ import annotations

import secrets
from collections.abc import AsyncGenerator
from typing import Final

import msgspec
from nats.aio.msg import Msg

from iotplatform.adapters.nats import subjects
from iotplatform.adapters.nats.api import NOT_FOUND_CONSUMER, NOT_FOUND_STREAM, ApiError, JetStreamApi
from iotplatform.adapters.nats.connection import Connection
from iotplatform.adapters.nats.reader import AckReply, Delivery
from iotplatform.domain.organization import Organization
from iotplatform.errors import Unavailable

FETCH_MESSAGES: Final = 200
# More than a message can have, so that one always fits.
FETCH_BYTES: Final = 16 << 20
_INACTIVE_NS: Final = 60_000_000_000


class KeptStream:
    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._api = JetStreamApi(connection)

    async def floor(self, organization: Organization, partition: int, role: str) -> int:
        """The sequence up to which a partition's reader has acknowledged everything; 0 when nothing is known.

        Raises:
            Unavailable: JetStream is away.
            ApiError: the organization is being made or deleted.
        """
        stream = subjects.organization_stream(organization.id)
        consumer = subjects.partition_consumer(role, organization.epoch, partition)
        try:
            answer = await self._api.call(f"CONSUMER.INFO.{stream}.{consumer}")
        except ApiError as error:
            if error.code != NOT_FOUND_CONSUMER:
                raise
            return 0  # gone with the server's memory, until its reader makes it anew
        return int(answer["ack_floor"]["stream_seq"])

    async def is_caught_up(self, organization: Organization, partition: int, role: str, position: int) -> bool:
        """Whether the stream holds nothing of a partition behind `position`, at the moment of asking or later.

        Raises:
            Unavailable: JetStream is away.
            ApiError: the organization is being made or deleted.
        """
        stream = subjects.organization_stream(organization.id)
        consumer = subjects.partition_consumer(role, organization.epoch, partition)
        answer = await self._api.call(f"CONSUMER.INFO.{stream}.{consumer}")
        return int(answer["num_pending"]) == 0 and int(answer["delivered"]["stream_seq"]) <= position

    async def last_notification(self) -> int:
        """The sequence of the newest transition in NOTIFICATIONS."""
        answer = await self._api.call(f"STREAM.INFO.{subjects.NOTIFICATIONS}")
        return int(answer["state"]["last_seq"])

    async def replay(
        self, organization: Organization, partition: int, *, since: int, until: int
    ) -> AsyncGenerator[list[Delivery], None]:
        """The partition's kept messages between two sequences, both included, in order and in bounded pieces.

        Raises:
            Unavailable: JetStream is away, or something was lost on the way: begin again.
            ApiError: the organization is being deleted.
        """
        stream = subjects.organization_stream(organization.id)
        consumer = f"replay_{secrets.token_hex(8)}"
        config = {
            "name": consumer,
            "filter_subject": subjects.partition_subjects(organization.id, organization.epoch, partition),
            "deliver_policy": "by_start_sequence",
            "opt_start_seq": max(1, since),
            "ack_policy": "none",
            "mem_storage": True,
            "num_replicas": 1,
            "inactive_threshold": _INACTIVE_NS,
        }
        await self._api.call(f"CONSUMER.CREATE.{stream}.{consumer}", {"stream_name": stream, "config": config})
        try:
            seen = 0
            while True:
                deliveries, pending = await self._fetch(stream, consumer, seen)
                seen += len(deliveries)
                wanted = [delivery for delivery in deliveries if delivery.sequence <= until]
                if wanted:
                    yield wanted
                if pending == 0 or len(wanted) < len(deliveries) or (wanted and wanted[-1].sequence == until):
                    return
        finally:
            await self._forget(stream, consumer)

    async def _fetch(self, stream: str, consumer: str, seen: int) -> tuple[list[Delivery], int]:
        """The next deliveries, and how many messages wait behind them."""
        pull = msgspec.json.encode({"batch": FETCH_MESSAGES, "max_bytes": FETCH_BYTES, "no_wait": True})
        answers = await self._connection.request_many(
            f"$JS.API.CONSUMER.MSG.NEXT.{stream}.{consumer}", pull, is_last=_Last(), timeout_s=30.0
        )
        deliveries: list[Delivery] = []
        pending = 0
        for message in answers:
            place = AckReply.parse(message.reply)
            if place is None:
                continue
            # Nobody acknowledges here, so nothing would come a second time.
            if place.consumer_sequence != seen + len(deliveries) + 1:
                raise Unavailable(f"a gap in the replay of {stream}")
            pending = place.pending
            deliveries.append(
                Delivery(
                    place.stream_sequence, place.stored_at, message.subject, message.headers or {}, message.data, ""
                )
            )
        return deliveries, pending

    async def _forget(self, stream: str, consumer: str) -> None:
        try:
            await self._api.call(f"CONSUMER.DELETE.{stream}.{consumer}")
        except ApiError as error:
            if error.code not in {NOT_FOUND_CONSUMER, NOT_FOUND_STREAM}:
                raise
        except Unavailable:
            return  # it forgets itself when nobody uses it


class _Last:
    """A full fetch ends with its last message, a shorter one with a status."""

    def __init__(self) -> None:
        self._messages = 0

    def __call__(self, message: Msg) -> bool:
        if not message.reply:
            return True
        self._messages += 1
        return self._messages == FETCH_MESSAGES

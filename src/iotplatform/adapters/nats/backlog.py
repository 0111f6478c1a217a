"""Counting what an organization's stream holds above a position, by headers alone."""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from typing import Final

import msgspec
from nats.aio.msg import Msg

from iotplatform.adapters.nats import subjects
from iotplatform.adapters.nats.api import (
    NOT_FOUND_CONSUMER,
    NOT_FOUND_MESSAGE,
    NOT_FOUND_STREAM,
    ApiError,
    JetStreamApi,
)
from iotplatform.adapters.nats.connection import Connection
from iotplatform.adapters.nats.headers import BlockHeaders
from iotplatform.adapters.nats.reader import AckReply
from iotplatform.domain.gap import LaneFollower, LaneGap, LanePlace
from iotplatform.domain.organization import Organization
from iotplatform.errors import Unavailable

FETCH: Final = 1_000


class Backlog(msgspec.Struct):
    """Blocks above a position: the readings in them, the last running total of each lane seen, and what is missing."""

    blocks: int = 0
    readings: int = 0
    lane_totals: dict[str, int] = msgspec.field(default_factory=dict)
    gaps: list[LaneGap] = msgspec.field(default_factory=list)


class BacklogCounter:
    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._api = JetStreamApi(connection)

    async def count(
        self,
        organization: Organization,
        partition: int,
        position: int,
        known: Mapping[str, LanePlace] | None = None,
    ) -> Backlog:
        """Reads up to what the stream held when it was asked; what arrives meanwhile may or may not count.

        With `known`, where the lanes stood at the position, it finds out what is missing above it.

        Raises:
            Unavailable: JetStream is away, or the server that was read from has not caught up with the others.
        """
        stream = subjects.organization_stream(organization.id)
        filter_subject = subjects.partition_subjects(organization.id, organization.epoch, partition)
        last = await self._last(stream, filter_subject)
        if last <= position:
            return Backlog()
        consumer = f"ledger_{secrets.token_hex(8)}"
        config = {
            "name": consumer,
            "filter_subject": filter_subject,
            "deliver_policy": "by_start_sequence",
            "opt_start_seq": position + 1,
            "ack_policy": "none",
            "headers_only": True,
            "mem_storage": True,
            "num_replicas": 1,
            "inactive_threshold": 60_000_000_000,
        }
        backlog = Backlog()
        follower = LaneFollower(partition, known) if known is not None else None
        try:
            await self._api.call(f"CONSUMER.CREATE.{stream}.{consumer}", {"stream_name": stream, "config": config})
        except ApiError as error:
            if error.code == NOT_FOUND_STREAM:
                return backlog
            raise
        try:
            reached = await self._read(stream, consumer, backlog, follower)
        finally:
            try:
                await self._api.call(f"CONSUMER.DELETE.{stream}.{consumer}")
            except ApiError as error:
                if error.code not in {NOT_FOUND_CONSUMER, NOT_FOUND_STREAM}:
                    raise
        if reached < last:
            raise Unavailable(f"a replica of {stream} has not caught up")
        return backlog

    async def _read(self, stream: str, consumer: str, backlog: Backlog, follower: LaneFollower | None) -> int:
        """Everything the consumer has; returns the sequence of the last message."""
        reached = 0
        pull = msgspec.json.encode({"batch": FETCH, "no_wait": True})
        while True:
            answers = await self._connection.request_many(
                f"$JS.API.CONSUMER.MSG.NEXT.{stream}.{consumer}", pull, is_last=_Last()
            )
            deliveries = [message for message in answers if message.reply]
            for message in deliveries:
                _add(backlog, BlockHeaders.decode(message.headers), follower)
                if place := AckReply.parse(message.reply):
                    reached = place.stream_sequence
            if len(deliveries) < FETCH:
                backlog.gaps = follower.gaps if follower else []
                return reached

    async def _last(self, stream: str, subject: str) -> int:
        """The sequence of the last message, as the stream's leader knows it; 0 when there is none.

        A consumer of one replica, and a direct get, may be served by a server of a cluster that lags behind.
        """
        try:
            answer = await self._api.call(f"STREAM.MSG.GET.{stream}", {"last_by_subj": subject})
        except ApiError as error:
            if error.code not in {NOT_FOUND_MESSAGE, NOT_FOUND_STREAM}:
                raise
            return 0
        return int(answer["message"]["seq"])


class _Last:
    """A full batch ends with its last message, a shorter one with a status."""

    def __init__(self) -> None:
        self._messages = 0

    def __call__(self, message: Msg) -> bool:
        if not message.reply:
            return True
        self._messages += 1
        return self._messages == FETCH


def _add(backlog: Backlog, headers: BlockHeaders | None, follower: LaneFollower | None) -> None:
    # What no lane has made was never accepted.
    if headers is not None:
        backlog.blocks += 1
        backlog.readings += headers.count
        backlog.lane_totals[headers.lane] = max(headers.total, backlog.lane_totals.get(headers.lane, 0))
        if follower:
            follower.follow(headers.lane, headers.number, headers.count, headers.total, 0)

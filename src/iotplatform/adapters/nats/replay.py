"""Replaying dead letters: what is in them goes back to the stream it came from, and the letter goes."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Sequence
from typing import Final, Literal, Protocol

import msgspec

from iotplatform.adapters.nats import subjects
from iotplatform.adapters.nats.api import NOT_FOUND_MESSAGE, ApiError, JetStreamApi
from iotplatform.adapters.nats.connection import Connection
from iotplatform.adapters.nats.dead_letters import PlacedLetter, find_letter
from iotplatform.adapters.nats.headers import MSG_ID, BlockHeaders
from iotplatform.adapters.nats.publisher import Publisher, PublishRefused, StreamFull
from iotplatform.domain.alarm import Transition, transition_id
from iotplatform.domain.identifiers import partition_of
from iotplatform.domain.organization import Organization
from iotplatform.domain.reading import FORMAT_VERSION, Reading, encode_readings, join_block
from iotplatform.domain.replay import NotReplayable, content_of
from iotplatform.errors import Unavailable
from iotplatform.observability.metrics import Metrics

PUBLISH_TIMEOUT_S: Final = 5.0
# Letters that are in memory and on their way at once.
AT_ONCE: Final = 16
# With the store's reason as text.
_DELETE_FAILED: Final = 10057
_SEQUENCE_NOT_FOUND: Final = 10043


class ReplayResult(msgspec.Struct, frozen=True):
    """What became of one letter; `detail` says why it was refused."""

    id: str
    result: Literal["replayed", "refused", "not_found"]
    detail: str | None = None


class _Outgoing(msgspec.Struct, frozen=True):
    """A message on its way back; `readings` is how many it holds."""

    subject: str
    payload: bytes
    headers: dict[str, str]
    readings: int


class ReplayLog(Protocol):
    """Remembers which letters a stream lacks because they were replayed, so that what it dropped can be told."""

    async def add(self, epoch: int, places: Sequence[int]) -> None: ...


class Replayer:
    def __init__(self, connection: Connection, publisher: Publisher, metrics: Metrics, replayed: ReplayLog) -> None:
        self._api = JetStreamApi(connection)
        self._publisher = publisher
        self._metrics = metrics
        self._replayed = replayed

    async def replay(self, organization: Organization, ids: Sequence[str], now: int) -> list[ReplayResult]:
        """In the order of the letters' arrival; one result for each id, in the order of `ids`.

        Raises:
            Unavailable: a server is away. The same request again goes on where this one stopped, and within the
                dedup window nothing is published twice.
        """
        results: dict[str, ReplayResult] = {}
        known = [id_ for id_ in dict.fromkeys(ids) if PlacedLetter.place_of(id_) is not None]
        known.sort(key=lambda id_: PlacedLetter.place_of(id_) or 0)
        for start in range(0, len(known), AT_ONCE):
            some = known[start : start + AT_ONCE]
            found = await asyncio.gather(*(find_letter(self._api, organization, id_) for id_ in some))
            letters = [placed for placed in found if placed is not None]
            for result in await self._replay(organization, letters, now):
                results[result.id] = result
        return [results.get(id_, ReplayResult(id_, "not_found")) for id_ in ids]

    async def _replay(self, organization: Organization, letters: list[PlacedLetter], now: int) -> list[ReplayResult]:
        refused: dict[str, str] = {}
        messages: list[tuple[PlacedLetter, _Outgoing]] = []
        for placed in letters:
            try:
                content = content_of(placed.letter, organization, now)
            except NotReplayable as error:
                refused[placed.id] = str(error)
            else:
                messages += [(placed, message) for message in _messages(organization, placed.id, content, now)]
        # Handed to the connection in this order, and so stored in it.
        answers = await asyncio.gather(*(self._publish(message) for _, message in messages), return_exceptions=True)
        lost: Unavailable | None = None
        left: set[str] = set()
        for (placed, _), answer in zip(messages, answers, strict=True):
            if isinstance(answer, StreamFull | PublishRefused):
                refused[placed.id] = str(answer)
            elif isinstance(answer, Unavailable):
                lost = answer
                left.add(placed.id)
            elif answer is not None:
                raise answer
        done = [placed for placed in letters if placed.id not in refused and placed.id not in left]
        own = subjects.letters_stream(organization.id)
        # Before they go: what is no more and not written down counts as dropped.
        await self._replayed.add(organization.epoch, [placed.place for placed in done if placed.stream == own])
        await asyncio.gather(*(self._remove(placed) for placed in done))
        if lost is not None:
            raise lost
        return [
            ReplayResult(placed.id, "refused", refused[placed.id])
            if placed.id in refused
            else ReplayResult(placed.id, "replayed")
            for placed in letters
        ]

    async def _publish(self, message: _Outgoing) -> None:
        ack = await self._publisher.publish(
            message.subject, message.payload, message.headers, timeout_s=PUBLISH_TIMEOUT_S
        )
        if message.readings and not ack.duplicate:
            self._metrics.readings_accepted.add(message.readings)
            self._metrics.blocks_published.add()

    async def _remove(self, placed: PlacedLetter) -> None:
        try:
            await self._api.call(f"STREAM.MSG.DELETE.{placed.stream}", {"seq": placed.place, "no_erase": True})
        except ApiError as error:
            # Somebody else has replayed it at the same time, under the same ids.
            gone = error.code == _DELETE_FAILED and "no message found" in str(error)
            if not gone and error.code not in {_SEQUENCE_NOT_FOUND, NOT_FOUND_MESSAGE}:
                raise


def _messages(
    organization: Organization, letter_id: str, content: list[Reading] | Transition, now: int
) -> list[_Outgoing]:
    if not isinstance(content, list):
        subject = subjects.notifications_subject(organization.id, organization.epoch, content.device_id)
        return [_Outgoing(subject, msgspec.json.encode(content), {MSG_ID: transition_id(content)}, 0)]
    parts: dict[int, list[Reading]] = {}
    for reading in content:
        parts.setdefault(partition_of(reading.device_id, organization.partitions), []).append(reading)
    lane = secrets.token_hex(8)
    messages = []
    for partition, readings in parts.items():
        count = len(readings)
        headers = BlockHeaders(FORMAT_VERSION, lane, 1, count, count, now).encode()
        # Not the lane's, which is new with every try, but one that a second try has too.
        headers[MSG_ID] = f"replay.{organization.epoch}.{letter_id}.{partition}"
        subject = subjects.readings_subject(organization.id, organization.epoch, partition, "control")
        messages.append(_Outgoing(subject, join_block([encode_readings(readings)], count), headers, count))
    return messages

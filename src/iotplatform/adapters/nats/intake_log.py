"""Blocks made of messages of MQTT: exactly once, although whoever makes them may die or be replaced at any moment.

Each carries up to where in INTAKE it goes, and says which message of its subject must be the last one before it. So a
new writer goes on behind the largest such mark, and one that was replaced without knowing is refused. What one fetch
brings for several partitions is stored together or not at all.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping, Sequence
from typing import Final

import msgspec

from iotplatform.adapters.nats import subjects
from iotplatform.adapters.nats.api import NOT_FOUND_STREAM, ApiError, JetStreamApi, StoredMessage
from iotplatform.adapters.nats.connection import Connection
from iotplatform.adapters.nats.headers import EXPECTED_LAST, INTAKE, LANE
from iotplatform.adapters.nats.publisher import Publisher, PublishRefused
from iotplatform.domain.organization import Organization
from iotplatform.errors import PlatformError, Unavailable

ACK_TIMEOUT_S: Final = 5.0
# The subject has another last message than expected; or the message's id was stored already.
_CONFLICTS: Final = frozenset({10071, 10164, 10201})
# Batches that have lost their beginning, or had to wait for others: nothing of them is stored.
_BATCH_FAULTS: Final = frozenset({10176, 10210})


class Replaced(PlatformError):
    """Somebody else writes the organization's blocks by now."""


class Resume(msgspec.Struct):
    """Where to go on: behind `position` in INTAKE. `lasts` are the last sequences of the partitions' subjects."""

    position: int
    lasts: list[int]


class OutgoingBlock(msgspec.Struct, frozen=True):
    partition: int
    payload: bytes
    headers: dict[str, str]


class IntakeLog:
    def __init__(self, connection: Connection, publisher: Publisher) -> None:
        self._connection = connection
        self._publisher = publisher
        self._api = JetStreamApi(connection)

    async def resume(self, organization: Organization) -> Resume:
        """Raises:
        Unavailable: JetStream is away, or the organization's stream is.
        """
        found = Resume(0, [])
        stream = subjects.organization_stream(organization.id)
        try:
            for subject in subjects.mqtt_subjects(organization.id, organization.epoch, organization.partitions):
                last = await self._api.last(stream, subject)
                found.lasts.append(last.sequence if last else 0)
                found.position = max(found.position, _mark_of(last.headers) if last else 0)
        except ApiError as error:
            if error.code == NOT_FOUND_STREAM:
                raise Unavailable(f"{stream} is not there") from error
            raise
        for place in subjects.letter_places(organization.id, organization.epoch, "intake"):
            letter = await self._last_letter(*place)
            found.position = max(found.position, _mark_of(letter.headers) if letter else 0)
        return found

    async def _last_letter(self, stream: str, subject: str) -> StoredMessage | None:
        try:
            return await self._api.last(stream, subject)
        except ApiError as error:
            if error.code == NOT_FOUND_STREAM:
                return None
            raise

    async def append(
        self, organization: Organization, resume: Resume, upto: int, blocks: Sequence[OutgoingBlock], lanes: set[str]
    ) -> None:
        """Store all of the blocks; `resume` moves on. Tried again after Unavailable, they are stored once.

        `lanes` are all the lanes under which these blocks may have been sent before.

        Raises:
            Replaced: another writer has stored something meanwhile.
            StreamFull, PublishRefused: the stream said no; nothing is stored.
            Unavailable: whether they are stored is to be found out by trying again.
        """
        names = subjects.mqtt_subjects(organization.id, organization.epoch, organization.partitions)
        batch = {} if len(blocks) == 1 else {"Nats-Batch-Id": secrets.token_hex(12)}
        try:
            for number, block in enumerate(blocks, start=1):
                headers = {**block.headers, INTAKE: str(upto), EXPECTED_LAST: str(resume.lasts[block.partition])}
                if batch:
                    headers |= {**batch, "Nats-Batch-Sequence": str(number)}
                if number < len(blocks):
                    await self._connection.publish(names[block.partition], block.payload, headers=headers)
                    continue
                if batch:
                    headers["Nats-Batch-Commit"] = "1"
                ack = await self._publisher.publish(
                    names[block.partition], block.payload, headers, timeout_s=ACK_TIMEOUT_S
                )
                for place, stored in enumerate(blocks):
                    resume.lasts[stored.partition] = ack.seq - len(blocks) + 1 + place
        except PublishRefused as error:
            if error.code in _BATCH_FAULTS:
                raise Unavailable(str(error)) from error
            if error.code not in _CONFLICTS:
                raise
            await self._look(organization, resume, upto, blocks, lanes)
        resume.position = upto

    async def is_stored(self, organization: Organization, resume: Resume, upto: int, lanes: set[str]) -> bool:
        """Whether blocks that were refused at the last try were stored at an earlier one.

        Raises:
            Replaced, Unavailable: as `append` does.
        """
        names = subjects.mqtt_subjects(organization.id, organization.epoch, organization.partitions)
        for partition, name in enumerate(names):
            last = await self._api.last(subjects.organization_stream(organization.id), name)
            if last is None or last.sequence == resume.lasts[partition]:
                continue
            if last.headers.get(LANE) in lanes and _mark_of(last.headers) == upto:
                return True
            raise Replaced(f"another process stores what MQTT brings for {organization.id}")
        return False

    async def _look(
        self, organization: Organization, resume: Resume, upto: int, blocks: Sequence[OutgoingBlock], lanes: set[str]
    ) -> None:
        """Whether what stands in the way is what we have sent ourselves."""
        names = subjects.mqtt_subjects(organization.id, organization.epoch, organization.partitions)
        found: dict[int, int] = {}
        for block in blocks:
            last = await self._api.last(subjects.organization_stream(organization.id), names[block.partition])
            if last is None or last.headers.get(LANE) not in lanes or _mark_of(last.headers) != upto:
                raise Replaced(f"another process stores what MQTT brings for {organization.id}")
            found[block.partition] = last.sequence
        for partition, sequence in found.items():
            resume.lasts[partition] = sequence


def _mark_of(headers: Mapping[str, str]) -> int:
    mark = headers.get(INTAKE, "0")
    return int(mark) if mark.isdecimal() else 0

"""Removing what belongs to an epoch that is over, and nothing else, from the streams."""

from __future__ import annotations

from typing import Any, Final

from iotplatform.adapters.nats import subjects
from iotplatform.adapters.nats.api import NOT_FOUND_CONSUMER, NOT_FOUND_STREAM, ApiError, JetStreamApi
from iotplatform.adapters.nats.connection import Connection, NobodyThere
from iotplatform.adapters.nats.consumers import PARTITION_ROLES
from iotplatform.adapters.nats.trimming import BeforeCut
from iotplatform.domain.organization import Organization
from iotplatform.domain.removal import Removal

_GONE: Final = frozenset({NOT_FOUND_STREAM, NOT_FOUND_CONSUMER})


class EpochRemover:
    """Everything in here may be done again, and by several at once."""

    def __init__(self, connection: Connection) -> None:
        self._api = JetStreamApi(connection)

    async def remove_stream(self, organization_id: str) -> None:
        """Only while no organization has this id, nor can get it."""
        await self._call(f"STREAM.DELETE.{subjects.organization_stream(organization_id)}")
        await self._call(f"STREAM.DELETE.{subjects.letters_stream(organization_id)}")

    async def remove_consumers(self, removal: Removal) -> None:
        """Those of the epoch in a stream that is its successor's by now."""
        stream = subjects.organization_stream(removal.organization_id)
        for partition in range(removal.partitions):
            for role in PARTITION_ROLES:
                consumer = subjects.partition_consumer(role, removal.epoch, partition)
                await self._call(f"CONSUMER.DELETE.{stream}.{consumer}")

    async def remove_messages(self, removal: Removal) -> None:
        """Its transitions and its dead letters."""
        organization_id, epoch = removal.organization_id, removal.epoch
        for stream, filter_subject in (
            (subjects.NOTIFICATIONS, subjects.notifications_subject(organization_id, epoch, ">")),
            *subjects.letter_places(organization_id, epoch, ">"),
        ):
            await self._call(f"STREAM.PURGE.{stream}", {"filter": filter_subject})

    async def remove_strangers(self, organization: Organization, before_cut: BeforeCut) -> int:
        """The number of blocks of earlier epochs removed from an organization's stream.

        A lane in another process can publish for a moment after its organization was deleted, into the stream of the
        next one of that name. Later epochs are left alone: whoever knows only this organization is behind the times.
        """
        stream = subjects.organization_stream(organization.id)
        everything = subjects.organization_subjects(organization.id)
        answer = await self._call(f"STREAM.INFO.{stream}", {"subjects_filter": everything})
        found = answer.get("state", {}).get("subjects") or {}
        removed = 0
        for subject in found:
            epoch = subject.split(".")[2]
            if not epoch.isdecimal() or int(epoch) >= organization.epoch:
                continue
            last = await self._last(stream, subject)
            if last is None:
                continue
            # The hole that is made here is nobody's loss.
            await before_cut(0, last + 1)
            purged = await self._call(f"STREAM.PURGE.{stream}", {"filter": subject, "seq": last + 1})
            removed += int(purged.get("purged", 0))
        return removed

    async def _last(self, stream: str, subject: str) -> int | None:
        try:
            found = await self._api.get(stream, {"last_by_subj": subject})
        except NobodyThere:
            return None
        return found.sequence if found else None

    async def _call(self, operation: str, body: dict[str, object] | None = None) -> dict[str, Any]:
        """The answer; an empty one when there is nothing (any more) to do it with."""
        try:
            return await self._api.call(operation, body, timeout_s=30)
        except ApiError as error:
            if error.code in _GONE:
                return {}
            raise

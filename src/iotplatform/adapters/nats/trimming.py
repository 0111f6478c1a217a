"""Trimming: what every reader has behind it and is old enough goes, but for each subject's last message."""

from __future__ import annotations

import datetime as dt
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Final, get_args

from iotplatform.adapters.nats import subjects
from iotplatform.adapters.nats.api import NOT_FOUND_CONSUMER, NOT_FOUND_STREAM, ApiError, JetStreamApi
from iotplatform.adapters.nats.connection import Connection, NobodyThere
from iotplatform.adapters.nats.consumers import NOTIFICATION_ROLES, PARTITION_ROLES
from iotplatform.domain.organization import Organization

# Called with a partition and the sequence below which it is about to be cut.
BeforeCut = Callable[[int, int], Awaitable[None]]

_GONE: Final = frozenset({NOT_FOUND_STREAM, NOT_FOUND_CONSUMER})


class Trimmer:
    """The acknowledgement floor is never above a reader's stored position, so it is safe to cut there."""

    def __init__(self, connection: Connection, keep_s: float) -> None:
        self._api = JetStreamApi(connection)
        self._keep = dt.timedelta(seconds=keep_s)
        self._cut: dict[str, int] = {}

    async def trim(
        self, organization: Organization, before_cut: BeforeCut | None = None, *, keep_at_most_s: float | None = None
    ) -> int:
        """The number of blocks removed. `keep_at_most_s` counts where it is less than what the settings say."""
        keep = self._keep if keep_at_most_s is None else min(self._keep, dt.timedelta(seconds=keep_at_most_s))
        stream = subjects.organization_stream(organization.id)
        removed = 0
        for partition in range(organization.partitions):
            consumers = [subjects.partition_consumer(role, organization.epoch, partition) for role in PARTITION_ROLES]
            for source in get_args(subjects.Source):
                subject = subjects.readings_subject(organization.id, organization.epoch, partition, source)
                removed += await self._trim_subject(
                    stream, subject, consumers, keep, partial(before_cut, partition) if before_cut else None
                )
        return removed

    async def trim_notifications(self) -> int:
        """The number of transitions removed."""
        return await self._trim_subject(subjects.NOTIFICATIONS, "notifications.>", list(NOTIFICATION_ROLES), self._keep)

    async def _trim_subject(
        self,
        stream: str,
        subject: str,
        consumers: list[str],
        keep: dt.timedelta,
        before_cut: Callable[[int], Awaitable[None]] | None = None,
    ) -> int:
        last = await self._last(stream, subject)
        if last is None or self._cut.get(subject, 0) >= last:
            return 0
        try:
            floor = min([await self._floor(stream, consumer) for consumer in consumers])
            cut = min(floor + 1, last, await self._first_kept(stream, subject, keep) or last)
            if cut <= self._cut.get(subject, 1):
                return 0
            if before_cut is not None:
                await before_cut(cut)
            answer = await self._api.call(f"STREAM.PURGE.{stream}", {"filter": subject, "seq": cut})
        except ApiError as error:
            if error.code in _GONE:
                return 0
            raise
        self._cut[subject] = cut
        return int(answer.get("purged", 0))

    async def _last(self, stream: str, subject: str) -> int | None:
        if "*" in subject or ">" in subject:
            try:
                answer = await self._api.call(f"STREAM.INFO.{stream}")
            except ApiError as error:
                if error.code in _GONE:
                    return None
                raise
            return int(answer["state"]["last_seq"]) or None
        try:
            found = await self._api.get(stream, {"last_by_subj": subject})
        except NobodyThere:
            return None
        return found.sequence if found else None

    async def _floor(self, stream: str, consumer: str) -> int:
        answer = await self._api.call(f"CONSUMER.INFO.{stream}.{consumer}")
        return int(answer["ack_floor"]["stream_seq"])

    async def _first_kept(self, stream: str, subject: str, keep: dt.timedelta) -> int | None:
        """The sequence of the first message that is younger than the keep time."""
        since = (dt.datetime.now(dt.UTC) - keep).isoformat().replace("+00:00", "Z")
        found = await self._api.get(stream, {"next_by_subj": subject, "start_time": since})
        return found.sequence if found else None

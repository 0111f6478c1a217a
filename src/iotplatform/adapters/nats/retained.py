"""Messages that MQTT keeps for who subscribes later: an organization has a share of them, and takes them along."""

from __future__ import annotations

from typing import Any, Final

from iotplatform.adapters.nats import subjects
from iotplatform.adapters.nats.api import JetStreamApi
from iotplatform.adapters.nats.connection import Connection

SHARE: Final = 500
# In one go: the next one goes on.
MAX_CLEARED: Final = 5_000


class RetainedMessages:
    def __init__(self, connection: Connection, *, share: int = SHARE) -> None:
        self._connection = connection
        self._api = JetStreamApi(connection)
        self._share = share

    async def trim(self) -> int:
        """Clear what organizations have beyond their share; returns how many.

        Raises:
            Unavailable, ApiError: JetStream is away.
        """
        if (await self._info())["messages"] <= self._share:
            return 0
        by_organization: dict[str, list[str]] = {}
        for subject in await self._subjects(f"{subjects.RETAINED_PREFIX}iot.>"):
            organization_id = subject.removeprefix(subjects.RETAINED_PREFIX).split(".")[1]
            by_organization.setdefault(organization_id, []).append(subject)
        beyond = [subject for each in by_organization.values() for subject in sorted(each)[self._share :]]
        for subject in beyond[:MAX_CLEARED]:
            await self._clear(subject)
        return min(len(beyond), MAX_CLEARED)

    async def remove(self, organization_id: str) -> None:
        """Only while no organization has this id, nor can get it."""
        for subject in await self._subjects(f"{subjects.RETAINED_PREFIX}iot.{organization_id}.>"):
            await self._clear(subject)

    async def _clear(self, subject: str) -> None:
        """As a client of MQTT does it, by an empty message: nats-server has what it keeps in memory as well."""
        found = await self._api.get(subjects.RETAINED, {"last_by_subj": subject})
        if found is None:
            return
        headers = {name: value for name, value in found.headers.items() if name.startswith("Nmqtt-")}
        await self._connection.request(subject, headers=headers)

    async def _subjects(self, pattern: str) -> list[str]:
        return list((await self._info(subjects_filter=pattern)).get("subjects") or ())

    async def _info(self, **query: str) -> dict[str, Any]:
        state: dict[str, Any] = (await self._api.call(f"STREAM.INFO.{subjects.RETAINED}", query))["state"]
        return state

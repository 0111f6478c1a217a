"""Trimming of INTAKE: what every organization's reader has behind it goes, once no session waits for it."""

from __future__ import annotations

import datetime as dt
from typing import Any, Final

from iotplatform.adapters.nats import subjects
from iotplatform.adapters.nats.api import NOT_FOUND_CONSUMER, ApiError, JetStreamApi
from iotplatform.adapters.nats.connection import Connection
from iotplatform.domain.organization import Organization

# Clients that are away for a moment get what was published for them meanwhile by MQTT; nats-server would keep it for
# ever, whether they come back or not.
SESSIONS_KEEP_S: Final = 600


class IntakeTrimmer:
    def __init__(self, connection: Connection, *, sessions_keep_s: float = SESSIONS_KEEP_S) -> None:
        self._api = JetStreamApi(connection)
        self._sessions_keep_s = sessions_keep_s

    async def trim(self, organizations: list[Organization]) -> int:
        """The number of messages removed from INTAKE; its last one always stays.

        An organization whose consumer is not there yet has read nothing. What belongs to none of them is trimmed with
        the rest.

        Raises:
            Unavailable, ApiError: JetStream is away.
        """
        # The end first: what comes afterwards is above it, whatever a consumer then says of itself.
        state = (await self._api.call(f"STREAM.INFO.{subjects.INTAKE}"))["state"]
        young = await self._first_young()
        cut = int(state["last_seq"]) if young is None else min(int(state["last_seq"]), young)
        if cut <= int(state["first_seq"]):
            return 0
        for organization in organizations:
            found = await self._consumer(organization)
            if found is None:
                return 0
            if found["num_pending"] or found["num_ack_pending"]:
                cut = min(cut, int(found["ack_floor"]["stream_seq"]) + 1)
        answer = await self._api.call(f"STREAM.PURGE.{subjects.INTAKE}", {"seq": cut}) if cut > 1 else {}
        return int(answer.get("purged", 0))

    async def remove_consumer(self, epoch: int) -> None:
        """Of an organization that is no more."""
        try:
            await self._api.call(f"CONSUMER.DELETE.{subjects.INTAKE}.{subjects.intake_consumer(epoch)}")
        except ApiError as error:
            if error.code != NOT_FOUND_CONSUMER:
                raise

    async def remove_messages(self, organization_id: str) -> None:
        """Only while no organization has this id, nor can get it."""
        await self._api.call(
            f"STREAM.PURGE.{subjects.INTAKE}", {"filter": subjects.intake_subjects(organization_id)}, timeout_s=30
        )

    async def _consumer(self, organization: Organization) -> dict[str, Any] | None:
        """Each by its name: a list would have every session of a device in it."""
        try:
            return await self._api.call(
                f"CONSUMER.INFO.{subjects.INTAKE}.{subjects.intake_consumer(organization.epoch)}"
            )
        except ApiError as error:
            if error.code == NOT_FOUND_CONSUMER:
                return None
            raise

    async def _first_young(self) -> int | None:
        """The first message that may still be wanted by a session."""
        since = dt.datetime.now(dt.UTC) - dt.timedelta(seconds=self._sessions_keep_s)
        found = await self._api.get(
            subjects.INTAKE,
            {"next_by_subj": f"{subjects.MQTT_PREFIX}>", "start_time": since.isoformat().replace("+00:00", "Z")},
        )
        return None if found is None else found.sequence

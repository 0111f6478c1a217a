"""Trimming of INTAKE and of what it is sourced from: what every organization's reader has behind it goes."""

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
    def __init__(self, connection: Connection) -> None:
        self._api = JetStreamApi(connection)

    async def trim(self, organizations: list[Organization]) -> int:
        """The number of messages removed from INTAKE; its last one always stays, since it says where to go on.

        An organization whose consumer is not there yet has read nothing. What belongs to none of them is trimmed with
        the rest.

        Raises:
            Unavailable, ApiError: JetStream is away.
        """
        # The end first: what comes afterwards is above it, whatever a consumer then says of itself.
        last = int((await self._api.call(f"STREAM.INFO.{subjects.INTAKE}"))["state"]["last_seq"])
        consumers = await self._consumers()
        cut = last
        for organization in organizations:
            found = consumers.get(subjects.intake_consumer(organization.epoch))
            if found is None:
                return 0
            if found["num_pending"] or found["num_ack_pending"]:
                cut = min(cut, int(found["ack_floor"]["stream_seq"]) + 1)
        answer = await self._api.call(f"STREAM.PURGE.{subjects.INTAKE}", {"seq": cut}) if cut > 1 else {}
        await self._trim_source()
        return int(answer.get("purged", 0))

    async def remove_consumer(self, epoch: int) -> None:
        """Of an organization that is no more."""
        try:
            await self._api.call(f"CONSUMER.DELETE.{subjects.INTAKE}.{subjects.intake_consumer(epoch)}")
        except ApiError as error:
            if error.code != NOT_FOUND_CONSUMER:
                raise

    async def _consumers(self) -> dict[str, dict[str, Any]]:
        found: dict[str, dict[str, Any]] = {}
        while True:
            page = await self._api.call(f"CONSUMER.LIST.{subjects.INTAKE}", {"offset": len(found)})
            found |= {consumer["name"]: consumer for consumer in page.get("consumers") or ()}
            if len(found) >= page["total"] or not page.get("consumers"):
                return found

    async def _trim_source(self) -> None:
        """No further than INTAKE has come, and nothing young."""
        sources = (await self._api.call(f"STREAM.INFO.{subjects.INTAKE}")).get("sources") or [{}]
        behind = int(sources[0].get("seq", 0))
        if behind <= 1:
            return
        since = (dt.datetime.now(dt.UTC) - dt.timedelta(seconds=SESSIONS_KEEP_S)).isoformat().replace("+00:00", "Z")
        young = await self._api.get(
            subjects.MQTT_MESSAGES, {"next_by_subj": f"{subjects.MQTT_PREFIX}>", "start_time": since}
        )
        cut = min(behind, young.sequence) if young else behind
        await self._api.call(f"STREAM.PURGE.{subjects.MQTT_MESSAGES}", {"seq": cut})

"""What an organization's stream says of its own holes, and of subjects that nobody reads any more."""

from __future__ import annotations

from typing import Final

from iotplatform.adapters.nats import subjects
from iotplatform.adapters.nats.api import NOT_FOUND_STREAM, ApiError, JetStreamApi
from iotplatform.adapters.nats.connection import Connection
from iotplatform.domain.gap import StreamState
from iotplatform.domain.organization import Organization

# Beyond this the list would take longer than a ledger may: about 8 MB.
MOST_DELETED: Final = 1_000_000
INFO_TIMEOUT_S: Final = 20.0


class StreamStates:
    def __init__(self, connection: Connection) -> None:
        self._api = JetStreamApi(connection)

    async def read(self, organization: Organization) -> StreamState:
        """A stream that is not there is an empty one.

        A subject's last message stays whatever is trimmed around it, so a stream can have very many holes; from a
        million on only its ends are told.

        Raises:
            Unavailable: JetStream is away.
        """
        operation = f"STREAM.INFO.{subjects.organization_stream(organization.id)}"
        try:
            state = (await self._api.call(operation))["state"]
            if 0 < state.get("num_deleted", 0) <= MOST_DELETED:
                answer = await self._api.call(operation, {"deleted_details": True}, timeout_s=INFO_TIMEOUT_S)
                state = answer["state"]
        except ApiError as error:
            if error.code != NOT_FOUND_STREAM:
                raise
            return StreamState(first=1, last=0)
        # One that never had a message says 0 of both.
        return StreamState(max(1, state["first_seq"]), state["last_seq"], tuple(state.get("deleted") or ()))

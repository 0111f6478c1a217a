"""Commands on their way: which are due, and what devices have replied."""

from __future__ import annotations

import datetime as dt
import uuid
from typing import Any, Final, Literal

import msgspec

from iotplatform.adapters.postgres.connection import Database
from iotplatform.adapters.postgres.errors import translated

AT_ONCE: Final = 200

# A message of NATS reaches a device of MQTT at most once: it is sent again, ever less often, until the device says that
# it has it. Counted before it is sent, so that two processes don't send the same.
_TAKE: Final = f"""
WITH due AS (
    SELECT c.id FROM commands c JOIN device_presence p ON p.epoch = c.epoch AND p.device_id = c.device_id
    WHERE c.state IN ('queued', 'sent') AND c.next_send_at <= now() AND c.expires_at > now() AND p.connected
    ORDER BY c.next_send_at LIMIT {AT_ONCE} FOR UPDATE OF c SKIP LOCKED
)
UPDATE commands c SET
    state = 'sent', sent_at = coalesce(c.sent_at, now()), times_sent = c.times_sent + 1,
    next_send_at = now() + least(60, 2 ^ c.times_sent) * interval '1 s'
FROM due, organizations o WHERE c.id = due.id AND o.epoch = c.epoch
RETURNING o.id AS organization_id, c.device_id, c.id, c.name, c.payload::text AS payload, c.created_at, c.expires_at
"""  # noqa: S608
_EXPIRE: Final = """
UPDATE commands SET state = 'expired', ended_at = now() WHERE state IN ('queued', 'sent') AND expires_at <= now()
"""
_ACKNOWLEDGE: Final = """
UPDATE commands SET state = 'acknowledged', acknowledged_at = now()
WHERE id = $3 AND epoch = $1 AND device_id = $2 AND state IN ('queued', 'sent')
"""
_END: Final = """
UPDATE commands SET state = $4, acknowledged_at = coalesce(acknowledged_at, now()), ended_at = now(), answer = $5::jsonb
WHERE id = $3 AND epoch = $1 AND device_id = $2 AND state IN ('queued', 'sent', 'acknowledged')
"""

Reply = Literal["acknowledged", "answered", "failed"]


class DueCommand(msgspec.Struct, frozen=True):
    organization_id: str
    device_id: str
    id: uuid.UUID
    name: str
    payload: msgspec.Raw
    created_at: dt.datetime
    expires_at: dt.datetime


class CommandDelivery:
    """Everything raises Unavailable while PostgreSQL is away."""

    def __init__(self, database: Database) -> None:
        self._pool = database.pool

    async def take(self) -> list[DueCommand]:
        """Those that are to be sent now; they count as sent."""
        with translated():
            rows = await self._pool.fetch(_TAKE)
        return [DueCommand(**{**dict(row), "payload": msgspec.Raw(row["payload"].encode())}) for row in rows]

    async def expire(self) -> None:
        with translated():
            await self._pool.execute(_EXPIRE)

    async def reply(self, epoch: int, device_id: str, command_id: uuid.UUID, reply: Reply, answer: Any) -> None:
        """A reply that comes again, or too late, changes nothing."""
        with translated():
            if reply == "acknowledged":
                await self._pool.execute(_ACKNOWLEDGE, epoch, device_id, command_id)
            else:
                encoded = None if answer is None else msgspec.json.encode(answer).decode()
                await self._pool.execute(_END, epoch, device_id, command_id, reply, encoded)

"""Alarm history: transitions to rows, with the position of the reader in one transaction."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from typing import Final

import asyncpg
import msgspec

from iotplatform.adapters.postgres.connection import Database
from iotplatform.adapters.postgres.errors import translated
from iotplatform.domain.alarm import AlarmRaised, Transition
from iotplatform.domain.timestamps import to_datetime
from iotplatform.errors import PlatformError

READER: Final = "persistence"

# The lock makes a deletion of the organization wait, so that the foreign key can't fail in between. The conflict is
# with the same alarm (published again) or with the index of active alarms: neither adds a second one.
_RAISE: Final = """
INSERT INTO alarms (id, epoch, rule_id, rule_name, device_id, sensor, severity, state, condition, raised_at,
                    first_breach_at, trigger_value, readings, position, latched)
SELECT $1, $2::bigint, $3, $4, $5, $6, $7, 'active', $8, $9, $10, $11, $12::text::jsonb, $13, $14::boolean
FROM organizations o WHERE o.epoch = $2
FOR KEY SHARE OF o
ON CONFLICT DO NOTHING
"""

_CLEAR: Final = """
UPDATE alarms SET state = 'cleared', cleared_at = $2, cleared_position = $3, clear_reason = $4
WHERE id = $1 AND state = 'active'
"""

_MOVE: Final = "UPDATE positions SET position = $3 WHERE reader = $1 AND position = $2"


class HistoryMoved(PlatformError):
    """Another process has moved the reader's position; nothing was written."""


class AlarmHistory:
    def __init__(self, database: Database) -> None:
        self._pool = database.pool

    async def position(self) -> int:
        with translated():
            return int(await self._pool.fetchval("SELECT position FROM positions WHERE reader = $1", READER))

    async def write(self, before: int, after: int, transitions: Sequence[Transition]) -> None:
        """Apply transitions in order and move the position.

        Raises:
            HistoryMoved: the position is not `before`.
            Unavailable: PostgreSQL is away; whether it was written, the position tells.
        """
        with translated():
            async with self._pool.acquire() as connection, connection.transaction():
                if await connection.execute(_MOVE, READER, before, after) != "UPDATE 1":
                    raise HistoryMoved("another process has moved the position of alarm history")
                for transition in transitions:
                    await _apply(connection, transition)


async def _apply(connection: asyncpg.pool.PoolConnectionProxy[asyncpg.Record], transition: Transition) -> None:
    if isinstance(transition, AlarmRaised):
        await connection.execute(
            _RAISE,
            uuid.UUID(transition.alarm_id),
            transition.epoch,
            transition.rule_id,
            transition.rule_name,
            transition.device_id,
            transition.sensor,
            transition.severity,
            transition.condition,
            to_datetime(transition.raised_at),
            to_datetime(transition.first_breach_at),
            transition.trigger_value,
            msgspec.json.encode(transition.readings).decode(),
            transition.position,
            transition.latched,
        )
    else:
        await connection.execute(
            _CLEAR,
            uuid.UUID(transition.alarm_id),
            to_datetime(transition.cleared_at),
            transition.position,
            transition.reason,
        )

"""What becomes of an alarm's timeline and of the clock: deliveries of acknowledgements, and reminders.

Both are taken in the transaction that makes the deliveries, past rows that another process has taken already: each is
announced once, by whichever process comes first.
"""

from __future__ import annotations

from typing import Final

import asyncpg

from iotplatform.adapters.postgres.connection import Database
from iotplatform.adapters.postgres.errors import translated
from iotplatform.adapters.postgres.routing import Connection, route
from iotplatform.domain.announcement import AlarmAcknowledged, AlarmReminder
from iotplatform.domain.timestamps import to_microseconds

AT_ONCE: Final = 200

# An organization that is being deleted is skipped, not waited for: its deletion may wait for these very rows.
_ACKNOWLEDGED: Final = """
SELECT e.id, e.at, e.who, e.detail ->> 'comment' AS comment, o.id AS organization_id, e.epoch, a.id AS alarm_id,
    a.rule_id, a.rule_name, a.severity, a.condition, a.device_id, a.sensor, a.raised_at
FROM alarm_events e JOIN organizations o ON o.epoch = e.epoch JOIN alarms a ON a.id = e.alarm_id
WHERE e.announce
ORDER BY e.id
LIMIT $1
FOR UPDATE OF e SKIP LOCKED FOR KEY SHARE OF o SKIP LOCKED
"""
_ANNOUNCED: Final = "UPDATE alarm_events SET announce = false WHERE id = ANY($1::bigint[])"

# A rule that wants no reminders any more, or is gone, only ends the waiting. None that was missed is made up for.
_REMIND: Final = """
WITH due AS (
    SELECT a.id, o.id AS organization_id FROM alarms a JOIN organizations o ON o.epoch = a.epoch
    WHERE a.remind_at <= now()
    ORDER BY a.remind_at
    LIMIT $1
    FOR UPDATE OF a SKIP LOCKED FOR KEY SHARE OF o SKIP LOCKED
), wanted AS (
    SELECT due.*, reminder_interval(r.definition) AS every
    FROM due JOIN alarms a ON a.id = due.id LEFT JOIN rules r ON r.epoch = a.epoch AND r.id = a.rule_id
), moved AS (
    UPDATE alarms a
    SET remind_at = now() + w.every, reminders = a.reminders + CASE WHEN w.every IS NULL THEN 0 ELSE 1 END
    FROM wanted w WHERE a.id = w.id
    RETURNING a.*, w.organization_id, w.every
), noted AS (
    INSERT INTO alarm_events (epoch, alarm_id, kind, detail)
    SELECT epoch, id, 'reminder', jsonb_build_object('number', reminders) FROM moved WHERE every IS NOT NULL
)
SELECT moved.*, now() AS reminded_at FROM moved ORDER BY id
"""


class Announcements:
    """All methods raise Unavailable while PostgreSQL is away."""

    def __init__(self, database: Database) -> None:
        self._pool = database.pool

    async def announce_acknowledged(self, most: int = AT_ONCE) -> int:
        """Make deliveries of acknowledgements; returns how many of these there were."""
        with translated():
            async with self._pool.acquire() as connection, connection.transaction():
                rows = await connection.fetch(_ACKNOWLEDGED, most)
                if rows:
                    await route(connection, [_acknowledged(row) for row in rows])
                    await connection.execute(_ANNOUNCED, [row["id"] for row in rows])
                return len(rows)

    async def remind(self, most: int = AT_ONCE) -> int:
        """Make deliveries of the reminders that are due; returns how many were looked at."""
        with translated():
            async with self._pool.acquire() as connection, connection.transaction():
                if not await _any_due(connection):
                    return 0
                rows = await connection.fetch(_REMIND, most)
                await route(connection, [_reminder(row) for row in rows if row["every"] is not None])
                return len(rows)


async def _any_due(connection: Connection) -> bool:
    """Almost always there is none, and the long statement need not be planned to find that out."""
    return bool(await connection.fetchval("SELECT EXISTS (SELECT FROM alarms WHERE remind_at <= now())"))


def _acknowledged(row: asyncpg.Record) -> AlarmAcknowledged:
    return AlarmAcknowledged(
        alarm_id=str(row["alarm_id"]),
        organization_id=row["organization_id"],
        epoch=row["epoch"],
        rule_id=row["rule_id"],
        rule_name=row["rule_name"],
        severity=row["severity"],
        condition=row["condition"],
        device_id=row["device_id"],
        sensor=row["sensor"],
        raised_at=to_microseconds(row["raised_at"]),
        acknowledged_at=to_microseconds(row["at"]),
        acknowledged_by=row["who"],
        comment=row["comment"],
    )


def _reminder(row: asyncpg.Record) -> AlarmReminder:
    return AlarmReminder(
        alarm_id=str(row["id"]),
        organization_id=row["organization_id"],
        epoch=row["epoch"],
        rule_id=row["rule_id"],
        rule_name=row["rule_name"],
        severity=row["severity"],
        condition=row["condition"],
        device_id=row["device_id"],
        sensor=row["sensor"],
        raised_at=to_microseconds(row["raised_at"]),
        trigger_value=row["trigger_value"],
        number=row["reminders"],
        reminded_at=to_microseconds(row["reminded_at"]),
    )

"""What people do about alarms. Every change writes its entry into the timeline in the same statement."""

from __future__ import annotations

import datetime as dt
import uuid
from collections.abc import Sequence
from typing import Any, Final

import msgspec

from iotplatform.adapters.postgres.connection import Database
from iotplatform.adapters.postgres.errors import translated

# The rows are locked in one order, so that two that acknowledge many at once can't wait for each other.
_ACKNOWLEDGE: Final = """
WITH wanted AS (
    SELECT id FROM alarms WHERE epoch = $1 AND id = ANY($2::uuid[]) AND acknowledged_at IS NULL
    ORDER BY id FOR UPDATE
), changed AS (
    UPDATE alarms a SET acknowledged_at = now(), acknowledged_by = $3, remind_at = NULL
    FROM wanted WHERE a.id = wanted.id AND a.acknowledged_at IS NULL
    RETURNING a.epoch, a.id, suppress_reminders(a.id, 'the alarm was acknowledged')
)
INSERT INTO alarm_events (epoch, alarm_id, kind, who, detail, announce)
SELECT epoch, id, 'acknowledged', $3, $4::text::jsonb, true FROM changed
RETURNING alarm_id
"""

_ASSIGN: Final = """
WITH changed AS (
    UPDATE alarms SET assigned_to = $4
    WHERE epoch = $1 AND id = $2 AND assigned_to IS DISTINCT FROM $4
    RETURNING epoch, id
)
INSERT INTO alarm_events (epoch, alarm_id, kind, who, detail)
SELECT epoch, id, 'assigned', $3, $5::text::jsonb FROM changed
"""

_NOTE: Final = """
INSERT INTO alarm_events (epoch, alarm_id, kind, who, detail)
SELECT epoch, id, $3, $4, $5::text::jsonb FROM alarms WHERE epoch = $1 AND id = $2 FOR KEY SHARE
"""

# Reminders rest while it is snoozed. They begin again when that is over, or a whole interval after it was ended early.
_SNOOZE: Final = """
WITH changed AS (
    UPDATE alarms a
    SET snoozed_until = $4, remind_at = CASE WHEN a.acknowledged_at IS NULL THEN (
        SELECT CASE WHEN reminder_interval(r.definition) IS NOT NULL
            THEN coalesce($4, now() + reminder_interval(r.definition)) END
        FROM rules r WHERE r.epoch = a.epoch AND r.id = a.rule_id
    ) END
    WHERE epoch = $1 AND id = $2 AND state = 'active'
    RETURNING epoch, id, CASE WHEN $4::timestamptz IS NOT NULL THEN suppress_reminders(id, 'the alarm was snoozed') END
)
INSERT INTO alarm_events (epoch, alarm_id, kind, who, detail)
SELECT epoch, id, 'snoozed', $3, $5::text::jsonb FROM changed
"""

_WHICH_EXIST: Final = "SELECT id FROM alarms WHERE epoch = $1 AND id = ANY($2::uuid[])"

_NOTHING_CHANGED: Final = "INSERT 0 0"


class AlarmActions:
    """All methods raise Unavailable while PostgreSQL is away; `who` is the name that the timeline shows."""

    def __init__(self, database: Database) -> None:
        self._pool = database.pool

    async def acknowledge(
        self, epoch: int, alarm_ids: Sequence[uuid.UUID], who: str, comment: str | None
    ) -> list[uuid.UUID]:
        """Those that were not acknowledged before; who was first stays."""
        with translated():
            rows = await self._pool.fetch(
                _ACKNOWLEDGE, epoch, list(alarm_ids), who, _detail(comment=comment) if comment else "{}"
            )
        return [row["alarm_id"] for row in rows]

    async def existing(self, epoch: int, alarm_ids: Sequence[uuid.UUID]) -> set[uuid.UUID]:
        with translated():
            return {row["id"] for row in await self._pool.fetch(_WHICH_EXIST, epoch, list(alarm_ids))}

    async def assign(self, epoch: int, alarm_id: uuid.UUID, who: str, assigned_to: str | None) -> None:
        """To somebody, or with None to nobody; the same again changes nothing."""
        with translated():
            await self._pool.execute(_ASSIGN, epoch, alarm_id, who, assigned_to, _detail(assigned_to=assigned_to))

    async def comment(self, epoch: int, alarm_id: uuid.UUID, who: str, comment: str) -> None:
        with translated():
            await self._pool.execute(_NOTE, epoch, alarm_id, "commented", who, _detail(comment=comment))

    async def note_clear_request(self, epoch: int, alarm_id: uuid.UUID, who: str, comment: str | None) -> None:
        """That somebody has asked for the clear, which analysis makes."""
        detail = _detail(comment=comment) if comment else "{}"
        with translated():
            await self._pool.execute(_NOTE, epoch, alarm_id, "clear_requested", who, detail)

    async def snooze(
        self, epoch: int, alarm_id: uuid.UUID, who: str, until: dt.datetime | None, shown: str | None
    ) -> bool:
        """Until then, or with None no longer; False when it is not active. `shown` is the time for the timeline."""
        with translated():
            status = await self._pool.execute(_SNOOZE, epoch, alarm_id, who, until, _detail(until=shown))
        return status != _NOTHING_CHANGED


def _detail(**values: Any) -> str:
    return msgspec.json.encode(values).decode()

"""The roll of a role: a row for each of its live processes, by the clock of the database.

Whoever comes, comes back or leaves says so in the change feed, so that the others hear of it at once.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from typing import Final

from iotplatform.adapters.postgres.changes import CHANNEL, EVERYTHING, Change
from iotplatform.adapters.postgres.connection import Database
from iotplatform.adapters.postgres.errors import translated
from iotplatform.runtime.membership import DEAD_AFTER_S, Beat, Roll

KIND: Final = "member"
PRUNED_AFTER: Final = "10 minutes"

# One statement, and so one snapshot: what it reads is how things were before what it writes.
_BEAT: Final = f"""
WITH before AS (
    SELECT joined_at, seen_at > now() - $4::interval AS live FROM members WHERE role = $1 AND id = $2
), beat AS (
    INSERT INTO members (role, id) VALUES ($1, $2)
    ON CONFLICT (role, id) DO UPDATE
        SET seen_at = now(), joined_at = CASE WHEN $3::timestamptz IS NULL THEN now() ELSE members.joined_at END
    RETURNING joined_at
), told AS (
    INSERT INTO changes (kind, key) SELECT '{KIND}', $1 WHERE NOT EXISTS (SELECT FROM before WHERE live) RETURNING 1
), pruned AS (
    DELETE FROM members WHERE seen_at < now() - interval '{PRUNED_AFTER}' AND (role, id) <> ($1, $2)
)
SELECT beat.joined_at AS since,
    coalesce((SELECT joined_at <> $3 FROM before), false) AS superseded,
    ARRAY(SELECT id FROM members WHERE role = $1 AND seen_at > now() - $4::interval) AS live,
    ARRAY(SELECT id FROM members WHERE role = $1) AS listed,
    (SELECT pg_notify('{CHANNEL}', '{KIND}')::text FROM told)
FROM beat
"""  # noqa: S608 - names of ours

_LEAVE: Final = f"""
WITH gone AS (
    DELETE FROM members WHERE role = $1 AND id = $2 RETURNING 1
), told AS (
    INSERT INTO changes (kind, key) SELECT '{KIND}', $1 FROM gone RETURNING 1
)
SELECT pg_notify('{CHANNEL}', '{KIND}')::text FROM told
"""  # noqa: S608


def roll_of(role: str, database: Database) -> Roll:
    """The roll on which the processes of a role write themselves down."""
    dead_after = dt.timedelta(seconds=DEAD_AFTER_S)

    async def beat(member_id: str, since: dt.datetime | None) -> Beat:
        with translated():
            row = await database.pool.fetchrow(_BEAT, role, member_id, since, dead_after)
        assert row is not None  # noqa: S101 - an upsert returns its row
        return Beat(row["since"], frozenset(row["live"]), frozenset(row["listed"]), row["superseded"])

    async def leave(member_id: str) -> None:
        with translated():
            await database.pool.execute(_LEAVE, role, member_id)

    return Roll(beat, leave)


def concern_members(changes: Sequence[Change], role: str) -> bool:
    """Whether somebody of that role has come or gone, or may have."""
    return EVERYTHING in changes or any(change.kind == KIND and change.key == role for change in changes)

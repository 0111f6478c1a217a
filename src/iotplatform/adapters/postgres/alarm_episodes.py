"""The alarm history as analysis needs it when its own state is lost."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from typing import Final

import msgspec

from iotplatform.adapters.postgres.alarm_history import READER
from iotplatform.adapters.postgres.connection import Database
from iotplatform.adapters.postgres.errors import translated
from iotplatform.domain.alarm import Evidence, RuleNames
from iotplatform.domain.episode import Episode
from iotplatform.domain.timestamps import to_microseconds

# A row that was cleared before positions of clearings were kept was cleared long ago.
_FIND: Final = """
SELECT id, rule_id, device_id, sensor, position, cleared_position, cleared_at, readings FROM alarms
WHERE epoch = $1 AND position <= $3 AND (state = 'active' OR cleared_position >= $2)
ORDER BY position
"""

# The series of a deleted device stay, without readings.
_SERIES: Final = """
SELECT device_id, sensor FROM series s
WHERE epoch = $1 AND EXISTS (SELECT FROM readings r WHERE r.series_id = s.id)
"""
_NAMES: Final = "SELECT id, rule_id, rule_name, severity, condition FROM alarms WHERE id = ANY($1)"

_decoder = msgspec.json.Decoder(tuple[Evidence, ...])


class AlarmEpisodes:
    def __init__(self, database: Database) -> None:
        self._pool = database.pool

    async def written_up_to(self) -> int:
        """The sequence in NOTIFICATIONS up to which everything is in the history."""
        with translated():
            return int(await self._pool.fetchval("SELECT position FROM positions WHERE reader = $1", READER))

    async def trimmed(self, epoch: int, partition: int) -> int:
        """The sequence below which the partition's stream may be missing parts."""
        with translated():
            trimmed = await self._pool.fetchval(
                "SELECT trimmed FROM partitions WHERE epoch = $1 AND number = $2", epoch, partition
            )
        return int(trimmed or 0)

    async def are_imported(self, epoch: int) -> bool:
        """Whether the organization came with a history that was made elsewhere."""
        with translated():
            return bool(await self._pool.fetchval("SELECT EXISTS (SELECT FROM imports WHERE epoch = $1)", epoch))

    async def names(self, alarm_ids: Sequence[str]) -> dict[str, RuleNames]:
        """What alarms say of their rules, of those that are written."""
        with translated():
            rows = await self._pool.fetch(_NAMES, [uuid.UUID(alarm_id) for alarm_id in alarm_ids])
        return {
            str(row["id"]): RuleNames(row["rule_id"], row["rule_name"], row["severity"], row["condition"])
            for row in rows
        }

    async def series(self, epoch: int) -> list[tuple[str, str]]:
        """Every series of an organization of which a reading is stored: device and sensor."""
        with translated():
            rows = await self._pool.fetch(_SERIES, epoch)
        return [(row["device_id"], row["sensor"]) for row in rows]

    async def find(self, epoch: int, *, since: int, until: int) -> list[Episode]:
        """Those raised up to `until` that were active at `since` or later, in the order in which they were raised.

        Raises:
            Unavailable: PostgreSQL is away.
        """
        with translated():
            rows = await self._pool.fetch(_FIND, epoch, since, until)
        return [
            Episode(
                str(row["id"]),
                row["rule_id"],
                row["device_id"],
                row["sensor"],
                row["position"],
                row["cleared_position"],
                to_microseconds(row["cleared_at"]) if row["cleared_at"] else None,
                _decoder.decode(row["readings"]),
            )
            for row in rows
        ]

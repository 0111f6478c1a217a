"""What Grafana's boards may read, where the operators have made a role for them.

Nobody else needs that role, and who migrates may not be allowed to make one: so it is made beside the database
(`config/postgres/grafana.sql`), and whoever brings the schema to head gives it exactly this.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import asyncpg

ROLE: Final = "iotplatform_boards"
# Columns, because some tables also hold what is nobody's business. Views show what their owner may see.
READABLE: Final[Mapping[str, tuple[str, ...]]] = {
    "organizations": ("id", "epoch", "name"),
    "partitions": ("epoch", "number", "stored", "dead_lettered"),
    "gaps": ("epoch", "partition"),
    "devices": ("epoch", "id", "name", "tags", "created_at"),
    "device_presence": ("epoch", "device_id", "connected", "last_seen_at"),
    "rules": ("epoch", "id"),
    "alarms": (
        "epoch",
        "id",
        "rule_name",
        "device_id",
        "sensor",
        "severity",
        "state",
        "raised_at",
        "cleared_at",
        "created_at",
        "acknowledged_at",
        "trigger_value",
    ),
    "deliveries": ("epoch", "channel_id", "transition", "state", "attempts", "created_at"),
    "telemetry": ("organization", "device", "sensor", "time", "kind", "value", "text"),
}
# Rights are given one process after the other: two at once would refuse each other.
LOCK: Final = 0x696F7471


async def grant_boards(connection: asyncpg.Connection) -> None:
    """Give the role what is readable and take everything else from it, if there is such a role."""
    async with connection.transaction():
        if not await connection.fetchval("SELECT count(*) FROM pg_roles WHERE rolname = $1", ROLE):
            return
        await connection.execute("SELECT pg_advisory_xact_lock($1)", LOCK)
        grants = (f"GRANT SELECT ({', '.join(columns)}) ON {table} TO {ROLE}" for table, columns in READABLE.items())
        await connection.execute("; ".join([f"REVOKE ALL ON ALL TABLES IN SCHEMA public FROM {ROLE}", *grants]))

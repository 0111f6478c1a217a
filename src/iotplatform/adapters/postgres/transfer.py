"""The rows of one organization, as they leave for a file and come back from one.

A row is a JSON object with the columns that `Table` names, so that the file stays what it is when a table gets another
column. What belongs to this platform alone stays here: epochs, positions, versions, keys.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from types import MappingProxyType
from typing import Final, TypeAlias

import asyncpg
import msgspec

from iotplatform.adapters.postgres.connection import COMMAND_TIMEOUT_S, CONNECT_TIMEOUT_S, Database
from iotplatform.adapters.postgres.errors import conflict, translated
from iotplatform.adapters.postgres.removals import LOCK_ID
from iotplatform.domain.organization import Organization
from iotplatform.domain.timestamps import to_microseconds
from iotplatform.errors import Rejected

Connection: TypeAlias = "asyncpg.pool.PoolConnectionProxy[asyncpg.Record] | asyncpg.Connection[asyncpg.Record]"

FETCHED_AT_ONCE: Final = 500
# Long enough for a page of rows to be looked at, with whatever else the machine does.
IDLE_MS: Final = 120_000
NOTHING: Final[Mapping[str, str]] = MappingProxyType({})


class Table(msgspec.Struct, frozen=True):
    """`order` says in which order rows leave. Rows come back with `derived` in place of, or beside, their columns."""

    name: str
    columns: tuple[str, ...]
    order: str
    derived: Mapping[str, str] = NOTHING
    epoch: str = "epoch"


# In the order in which they come back.
TABLES: Final[Mapping[str, Table]] = MappingProxyType(
    {
        "limits": Table("limits", ("definition",), "epoch"),
        "retention": Table("retention", ("definition",), "epoch"),
        "devices": Table("devices", ("id", "name", "tags", "metadata", "created_at"), "id"),
        "device_limits": Table("device_limits", ("device_id", "definition"), "device_id"),
        "device_retention": Table("device_retention", ("device_id", "definition"), "device_id"),
        "device_presence": Table(
            "device_presence",
            ("device_id", "last_seen_at", "disconnected_at"),
            "device_id",
            # Whoever is connected is so elsewhere.
            {"disconnected_at": "coalesce(x.disconnected_at, x.last_seen_at)"},
        ),
        "series_units": Table("series_units", ("device_id", "sensor", "unit"), "device_id, sensor"),
        "pack_applications": Table("rule_pack_organizations", ("pack_id", "version", "tried", "fault"), "pack_id"),
        "rule_versions": Table(
            "rule_versions",
            ("rule_id", "version", "definition", "pack_id", "changed_at", "changed_by"),
            "rule_id, version",
        ),
        "rules": Table(
            "rules",
            ("id", "version", "definition", "pack_id", "switched_off", "created_at", "updated_at", "changed_by"),
            "id",
        ),
        "channels": Table(
            "channels",
            ("id", "name", "type", "enabled", "severities", "config", "created_at", "updated_at"),
            "id",
        ),
        "maintenance_windows": Table(
            "maintenance_windows",
            ("id", "name", "starts_at", "ends_at", "device_ids", "device_tags", "rule_ids", "created_at", "created_by"),
            "id",
        ),
        "mappings": Table("mappings", ("id", "definition", "created_at", "updated_at"), "id"),
        "alarms": Table(
            "alarms",
            (
                *("id", "rule_id", "rule_name", "device_id", "sensor", "severity", "state", "condition", "raised_at"),
                *("first_breach_at", "cleared_at", "clear_reason", "acknowledged_at", "acknowledged_by"),
                *("assigned_to", "trigger_value", "readings", "created_at", "latched", "snoozed_until", "reminders"),
            ),
            "raised_at, id",
            # Before everything that the new stream will hold.
            {"position": "0"},
        ),
        "alarm_events": Table("alarm_events", ("alarm_id", "kind", "at", "who", "detail"), "id"),
        "deliveries": Table(
            "deliveries",
            ("id", "alarm_id", "channel_id", "transition", "number", "state", "attempts", "created_at"),
            "created_at, id",
            {"event": "'{}'::jsonb"},
        ),
        "commands": Table(
            "commands",
            (
                *("id", "device_id", "name", "payload", "state", "created_at", "created_by", "expires_at", "sent_at"),
                *("acknowledged_at", "ended_at", "times_sent", "answer"),
            ),
            "created_at, id",
            {"payload": "coalesce(x.payload, 'null'::jsonb)", "fingerprint": "''"},
        ),
        "audit": Table(
            "audit",
            ("at", "actor", "actor_kind", "address", "request", "action", "kind", "subject", "old", "new"),
            "id",
            {"organization_id": "(SELECT o.id FROM organizations o WHERE o.epoch = $1)"},
            epoch="organization_epoch",
        ),
    }
)

# Triggers have written their own, as for things that were made now.
_FORGET: Final = MappingProxyType(
    {
        "alarm_events": "DELETE FROM alarm_events WHERE epoch = $1",
        "audit": "DELETE FROM audit WHERE organization_epoch = $1",
    }
)
_PACKS: Final = """
SELECT p.id, p.name, p.rules::text AS rules FROM rule_packs p JOIN rule_pack_organizations o ON o.pack_id = p.id
WHERE o.epoch = $1 ORDER BY p.id
"""
_LEFT_OUT: Final = """
SELECT (SELECT count(*) FROM device_tokens WHERE epoch = $1 AND revoked_at IS NULL) AS device_tokens,
    (SELECT count(*) FROM provisioning_keys WHERE epoch = $1 AND revoked_at IS NULL) AS provisioning_keys,
    (SELECT count(*) FROM api_keys WHERE epoch = $1 AND revoked_at IS NULL) AS api_keys,
    (SELECT count(*) FROM user_roles WHERE epoch = $1) AS people
"""
_REMINDERS: Final = """
UPDATE alarms SET remind_at = CASE WHEN acknowledged_at IS NULL THEN greatest(remind_at, snoozed_until) END
WHERE epoch = $1 AND state = 'active'
"""
_IMPORTED: Final = """
INSERT INTO audit (organization_epoch, organization_id, actor, actor_kind, action, kind, subject, new)
SELECT epoch, id, 'system', 'system', 'imported', 'organization', id, $2::jsonb FROM organizations WHERE epoch = $1
"""


class Leaving:
    """One organization in one snapshot of the database."""

    def __init__(self, connection: Connection, organization: Organization) -> None:
        self._connection = connection
        self.organization = organization

    async def rows(self, kind: str) -> AsyncIterator[str]:
        """JSON texts."""
        table = TABLES[kind]
        query = (
            f"SELECT row_to_json(x)::text FROM (SELECT {', '.join(table.columns)} FROM {table.name}"  # noqa: S608
            f" WHERE {table.epoch} = $1 ORDER BY {table.order}) x"
        )
        async for row in self._connection.cursor(query, self.organization.epoch, prefetch=FETCHED_AT_ONCE):
            yield row[0]

    async def packs(self) -> list[tuple[str, str, str]]:
        """Of the packs that it has: id, name, rules as JSON."""
        rows = await self._connection.fetch(_PACKS, self.organization.epoch)
        return [(row["id"], row["name"], row["rules"]) for row in rows]

    async def left_out(self) -> dict[str, int]:
        """What opens doors, and stays: how many of each."""
        row = await self._connection.fetchrow(_LEFT_OUT, self.organization.epoch)
        return dict(row) if row is not None else {}


@asynccontextmanager
async def leaving(database: Database, organization_id: str) -> AsyncIterator[Leaving]:
    """Raises:
    Rejected: there is no such organization.
    Unavailable: PostgreSQL is away.
    """
    with translated():
        async with (
            database.pool.acquire() as connection,
            connection.transaction(isolation="repeatable_read", readonly=True),
        ):
            await _prepare(connection)
            row = await connection.fetchrow("SELECT * FROM organizations WHERE id = $1", organization_id)
            if row is None:
                raise Rejected("not_found", f"there is no organization {organization_id!r}")
            yield Leaving(connection, organization_of(row))


class Arriving:
    """An organization that is made, in a transaction that nobody sees yet."""

    def __init__(self, connection: Connection, organization: Organization) -> None:
        self._connection = connection
        self.organization = organization

    async def begin(self, kind: str) -> None:
        """Before the first row of a kind."""
        if kind in _FORGET:
            await self._connection.execute(_FORGET[kind], self.organization.epoch)

    async def add(self, kind: str, rows: Sequence[bytes]) -> None:
        """Rows of one kind as JSON texts, which were looked at."""
        table = TABLES[kind]
        columns = list(dict.fromkeys((*table.columns, *table.derived)))
        values = [table.derived.get(column, f"x.{column}") for column in columns]
        statement = (
            f"INSERT INTO {table.name} ({table.epoch}, {', '.join(columns)}) SELECT $1, {', '.join(values)}"  # noqa: S608
            f" FROM json_populate_recordset(NULL::{table.name}, $2::json) WITH ORDINALITY AS x"
            f" ORDER BY x.ordinality"
        )
        await self._connection.execute(statement, self.organization.epoch, f"[{b','.join(rows).decode()}]")

    async def pack(self, pack_id: str, name: str, rules: str) -> tuple[str, int] | None:
        """The rules of a pack, as JSON, and its version; made now unless there was one of this id."""
        statement = (
            "INSERT INTO rule_packs (id, name, rules, changed_by) VALUES ($1, $2, $3::jsonb, 'import')"
            " ON CONFLICT (id) DO NOTHING RETURNING version"
        )
        made = await self._connection.fetchval(statement, pack_id, name, rules)
        if made is not None:
            await self._connection.execute(
                "INSERT INTO rule_pack_versions (pack_id, version, name, rules, changed_by)"
                " VALUES ($1, $2, $3, $4::jsonb, 'import') ON CONFLICT DO NOTHING",
                *(pack_id, made, name, rules),
            )
        row = await self._connection.fetchrow(
            "SELECT rules::text AS rules, version FROM rule_packs WHERE id = $1 FOR SHARE", pack_id
        )
        return None if row is None else (row["rules"], row["version"])

    async def finish(self, checksum: str, source: str) -> None:
        """What follows from the rows, and that it is an import whose readings are still to come."""
        epoch = self.organization.epoch
        await self._connection.execute(_REMINDERS, epoch)
        await self._connection.execute(_IMPORTED, epoch, source)
        await self._connection.execute("INSERT INTO imports (epoch, checksum) VALUES ($1, $2)", epoch, checksum)


@asynccontextmanager
async def arriving(
    database: Database,
    organization: tuple[str, str, int],
    make_stream: Callable[[Organization], Awaitable[None]],
) -> AsyncIterator[Arriving]:
    """Make an organization (id, name, partitions), its stream at last; all of it or nothing.

    Raises:
        Rejected: the id is taken, or PostgreSQL does not take a row.
        Unavailable: a server is away.
    """
    taken = conflict(f"the organization {organization[0]!r} exists already", constraint="organizations_id_key")
    with translated(), taken, _refused():
        # A connection of its own: rows by the thousand, with the machine busy, may take longer than a request.
        connection = await asyncpg.connect(
            database.url,
            timeout=CONNECT_TIMEOUT_S,
            command_timeout=10 * COMMAND_TIMEOUT_S,
            server_settings={"idle_in_transaction_session_timeout": f"{IDLE_MS}"},
        )
        try:
            async with connection.transaction():
                await _prepare(connection)
                await connection.execute(LOCK_ID, organization[0])
                row = await connection.fetchrow(
                    "INSERT INTO organizations (id, name, partitions) VALUES ($1, $2, $3) RETURNING *",
                    *organization,
                )
                assert row is not None  # noqa: S101 - it was inserted
                made = organization_of(row)
                await connection.executemany(
                    "INSERT INTO partitions (epoch, number) VALUES ($1, $2)",
                    [(made.epoch, number) for number in range(made.partitions)],
                )
                yield Arriving(connection, made)
                await make_stream(made)
        finally:
            await connection.close(timeout=CONNECT_TIMEOUT_S)


@contextmanager
def _refused() -> Iterator[None]:
    """What contradicts itself is not looked for before: PostgreSQL finds it."""
    try:
        yield
    except asyncpg.IntegrityConstraintViolationError as error:
        if error.constraint_name == "organizations_id_key":
            raise
        raise Rejected("invalid", f"contradicts itself: {error.detail or error}") from error
    except asyncpg.DataError as error:
        raise Rejected("invalid", f"holds what PostgreSQL does not take: {error}") from error


async def _prepare(connection: Connection) -> None:
    await connection.execute("SET LOCAL timezone TO 'UTC'")
    await connection.execute(f"SET LOCAL idle_in_transaction_session_timeout TO {IDLE_MS}")


def organization_of(row: asyncpg.Record) -> Organization:
    return Organization(row["id"], row["epoch"], row["name"], row["partitions"], to_microseconds(row["created_at"]))

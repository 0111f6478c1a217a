"""Deleting an organization: its rows at once, and a row of `removals` that stands for all the rest until it is gone."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Collection
from contextlib import asynccontextmanager
from typing import Final

import asyncpg

from iotplatform.adapters.postgres.actor import claim
from iotplatform.adapters.postgres.connection import Database
from iotplatform.adapters.postgres.errors import translated
from iotplatform.domain.organization import Organization
from iotplatform.domain.removal import Removal
from iotplatform.domain.timestamps import to_microseconds

# Creating an organization and removing the stream of its predecessor exclude each other, by this lock on the id.
LOCK_ID: Final = "SELECT pg_advisory_xact_lock(hashtextextended('organization.' || $1, 0))"

# In the order in which persistence takes them: positions first. Otherwise each could wait for the other.
_LOCK_PARTITIONS: Final = "SELECT FROM partitions WHERE epoch = $1 ORDER BY number FOR UPDATE"
_LOCK: Final = "SELECT version FROM organizations WHERE epoch = $1 FOR UPDATE"
_DELETE: Final = "DELETE FROM organizations WHERE epoch = $1 RETURNING id, epoch, partitions"
_ADD: Final = "INSERT INTO removals (epoch, organization_id, partitions) VALUES ($1, $2, $3)"
_DUE: Final = """
SELECT organization_id, epoch, partitions FROM removals
WHERE requested_at < now() - make_interval(secs => $1) ORDER BY epoch
"""
_OWNER: Final = "SELECT id, epoch, name, partitions, created_at FROM organizations WHERE id = $1"

_WITHOUT_ORGANIZATION: Final = """
SELECT e AS epoch FROM unnest($1::bigint[]) AS e
WHERE NOT EXISTS (SELECT FROM organizations WHERE epoch = e) AND NOT EXISTS (SELECT FROM removals WHERE epoch = e)
"""


Check = Callable[[int], None]


def _any_version(_: int) -> None:
    pass


class Removals:
    def __init__(self, database: Database) -> None:
        self._pool = database.pool

    async def begin(self, organization: Organization, check: Check = _any_version) -> Removal | None:
        """Delete the organization with its rows, and note what is left to do; None when somebody else has.

        `check` is told its version; what it raises leaves everything as it was.

        Raises:
            Unavailable: PostgreSQL is away; nothing was deleted, or all of it.
        """
        with translated():
            async with self._pool.acquire() as connection, connection.transaction():
                await claim(connection)
                await connection.execute(_LOCK_PARTITIONS, organization.epoch)
                locked = await connection.fetchrow(_LOCK, organization.epoch)
                if locked is None:
                    return None
                check(locked["version"])
                row = await connection.fetchrow(_DELETE, organization.epoch)
                assert row is not None  # noqa: S101 - locked above
                await connection.execute(_ADD, row["epoch"], row["id"], row["partitions"])
        return Removal(row["id"], row["epoch"], row["partitions"])

    async def due(self, after_s: float) -> list[Removal]:
        """Those that were begun longer ago than `after_s`."""
        with translated():
            rows = await self._pool.fetch(_DUE, after_s)
        return [Removal(row["organization_id"], row["epoch"], row["partitions"]) for row in rows]

    @asynccontextmanager
    async def owner(self, organization_id: str) -> AsyncIterator[Organization | None]:
        """The organization that has this id now; inside of the block nobody else can get it."""
        with translated():
            async with self._pool.acquire() as connection, connection.transaction():
                await connection.execute(LOCK_ID, organization_id)
                row = await connection.fetchrow(_OWNER, organization_id)
                yield None if row is None else _organization(row)

    async def without_organization(self, epochs: Collection[int]) -> list[int]:
        """Those of them that are no organization's any more, and of no removal that is still to come."""
        with translated():
            rows = await self._pool.fetch(_WITHOUT_ORGANIZATION, list(epochs))
        return [row["epoch"] for row in rows]

    async def end(self, removal: Removal) -> None:
        """Nothing is left."""
        with translated():
            await self._pool.execute("DELETE FROM removals WHERE epoch = $1", removal.epoch)


def _organization(row: asyncpg.Record) -> Organization:
    return Organization(row["id"], row["epoch"], row["name"], row["partitions"], to_microseconds(row["created_at"]))

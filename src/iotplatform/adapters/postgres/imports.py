"""How far the import of an organization has come: its rows came at once, its readings come part by part."""

from __future__ import annotations

import msgspec

from iotplatform.adapters.postgres.connection import Database
from iotplatform.adapters.postgres.errors import translated
from iotplatform.adapters.postgres.transfer import organization_of
from iotplatform.domain.organization import Organization


class Begun(msgspec.Struct, frozen=True):
    """An import that was begun: `parts` of its readings are stored. `checksum` is that of the file's manifest."""

    organization: Organization
    checksum: str
    parts: int
    finished: bool


async def begun(database: Database, organization_id: str) -> Begun | None:
    """What is known of the import that an organization came by; None when it came by none, or is not there."""
    with translated():
        row = await database.pool.fetchrow(
            "SELECT o.*, i.checksum, i.parts, i.finished_at FROM imports i JOIN organizations o USING (epoch)"
            " WHERE o.id = $1",
            organization_id,
        )
    if row is None:
        return None
    return Begun(organization_of(row), row["checksum"], row["parts"], row["finished_at"] is not None)


async def advance(database: Database, epoch: int, parts: int) -> None:
    with translated():
        await database.pool.execute("UPDATE imports SET parts = greatest(parts, $2) WHERE epoch = $1", epoch, parts)


async def finish(database: Database, epoch: int) -> None:
    with translated():
        await database.pool.execute("UPDATE imports SET finished_at = now() WHERE epoch = $1", epoch)

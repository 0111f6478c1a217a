"""The topic mappings of an organization."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import msgspec
from sqlalchemy import func, select

from iotplatform.adapters.postgres.connection import Database
from iotplatform.adapters.postgres.errors import conflict, missing, translated
from iotplatform.adapters.postgres.models import MappingRow
from iotplatform.adapters.postgres.versions import count_version
from iotplatform.domain.mappings.mapping import Mapping
from iotplatform.errors import Rejected

# Every message of a gateway is held against each of them.
MAX_MAPPINGS: Final = 100

Check = Callable[[int | None], None]


async def find(database: Database, epoch: int, mapping_id: str) -> MappingRow | None:
    with translated():
        async with database.sessions() as session:
            return await session.get(MappingRow, (epoch, mapping_id))


async def page(database: Database, epoch: int, limit: int, after: str | None) -> list[MappingRow]:
    """By id, which is also the order in which they are held against a topic."""
    query = select(MappingRow).where(MappingRow.epoch == epoch).order_by(MappingRow.id).limit(limit)
    if after is not None:
        query = query.where(MappingRow.id > after)
    with translated():
        async with database.sessions() as session:
            return list(await session.scalars(query))


async def add(database: Database, epoch: int, mapping: Mapping) -> MappingRow:
    """A new mapping.

    Raises:
        Rejected: the id is taken, there are too many, or the organization is gone.
        Unavailable: PostgreSQL is away.
    """
    taken = conflict(f"the mapping {mapping.id!r} exists already", constraint="mappings_pkey")
    count = select(func.count()).where(MappingRow.epoch == epoch)
    with translated(), missing("the organization is gone"), taken:
        async with database.sessions.begin() as session:
            if (await session.scalar(count) or 0) >= MAX_MAPPINGS:
                raise Rejected("conflict", f"the organization has {MAX_MAPPINGS} mappings already: delete one first")
            row = MappingRow(epoch=epoch, id=mapping.id, definition=_definition(mapping))
            session.add(row)
            await session.flush()
            await session.refresh(row, ["created_at", "updated_at", "version"])
            return row


async def put(database: Database, epoch: int, mapping: Mapping, check: Check) -> tuple[MappingRow, bool]:
    """Make or replace a mapping; whether it was made. `check` is told the version that is to be replaced, or None.

    Raises:
        Rejected: by `check`; or as `add` does.
        Unavailable: PostgreSQL is away.
    """
    with translated():
        async with database.sessions.begin() as session:
            row = await session.get(MappingRow, (epoch, mapping.id), with_for_update=True)
            check(row.version if row is not None else None)
            if row is not None:
                row.definition = _definition(mapping)
                count_version(session, row)
                return row, False
    return await add(database, epoch, mapping), True


async def remove(database: Database, epoch: int, mapping_id: str, check: Check) -> bool:
    """Whether there was such a mapping."""
    with translated():
        async with database.sessions.begin() as session:
            row = await session.get(MappingRow, (epoch, mapping_id), with_for_update=True)
            if row is None:
                return False
            check(row.version)
            await session.delete(row)
            return True


def _definition(mapping: Mapping) -> dict[str, Any]:
    definition: dict[str, Any] = msgspec.json.decode(msgspec.json.encode(mapping))
    return definition


def mapping_of(row: MappingRow) -> Mapping:
    return msgspec.convert(row.definition, Mapping)

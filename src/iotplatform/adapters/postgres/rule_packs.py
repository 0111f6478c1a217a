"""Rule packs: the packs themselves, their history, and who has them."""

from __future__ import annotations

from typing import Any

import msgspec
from sqlalchemy import delete, func, select

from iotplatform.adapters.postgres.connection import Database
from iotplatform.adapters.postgres.errors import conflict, translated
from iotplatform.adapters.postgres.models import (
    OrganizationRow,
    RulePackOrganizationRow,
    RulePackRow,
    RulePackVersionRow,
)
from iotplatform.domain.precondition import Precondition, tag_within
from iotplatform.domain.rule import Rule
from iotplatform.domain.rule_pack import RulePack
from iotplatform.domain.timestamps import to_microseconds
from iotplatform.errors import Rejected

VERSIONS_KEPT = 200


class StoredPack(msgspec.Struct, frozen=True):
    """`tag`: the version, of this pack and of none that was deleted under its id."""

    pack: RulePack
    version: int
    tag: int


class PackVersion(msgspec.Struct, frozen=True):
    version: int
    changed_at: int
    changed_by: str | None
    pack: RulePack


class Application(msgspec.Struct, frozen=True):
    """A pack in an organization: the version that it has, the pack's own, and why the two differ if they should not."""

    organization_id: str
    version: int
    pack_version: int
    fault: str | None
    updated_at: int


async def find(database: Database, pack_id: str) -> StoredPack | None:
    with translated():
        async with database.sessions() as session:
            row = await session.get(RulePackRow, pack_id)
            return None if row is None else _stored(row)


async def page(database: Database, limit: int, after: str | None) -> list[StoredPack]:
    """By id."""
    query = select(RulePackRow).order_by(RulePackRow.id).limit(limit)
    if after is not None:
        query = query.where(RulePackRow.id > after)
    with translated():
        async with database.sessions() as session:
            return [_stored(row) for row in await session.scalars(query)]


async def versions(database: Database, pack_id: str, limit: int, before: int | None) -> list[PackVersion]:
    """The newest first."""
    query = (
        select(RulePackVersionRow)
        .where(RulePackVersionRow.pack_id == pack_id)
        .order_by(RulePackVersionRow.version.desc())
        .limit(limit)
    )
    if before is not None:
        query = query.where(RulePackVersionRow.version < before)
    with translated():
        async with database.sessions() as session:
            return [
                PackVersion(
                    row.version, to_microseconds(row.changed_at), row.changed_by, _pack(pack_id, row.name, row.rules)
                )
                for row in await session.scalars(query)
            ]


async def applications(
    database: Database, pack_id: str, limit: int, after: str | None, organization_id: str | None = None
) -> list[Application]:
    """By organization; of only one, when that is given."""
    query = (
        select(RulePackOrganizationRow, OrganizationRow.id, RulePackRow.version)
        .join(OrganizationRow, OrganizationRow.epoch == RulePackOrganizationRow.epoch)
        .join(RulePackRow, RulePackRow.id == RulePackOrganizationRow.pack_id)
        .where(RulePackOrganizationRow.pack_id == pack_id)
        .order_by(OrganizationRow.id)
        .limit(limit)
    )
    if after is not None:
        query = query.where(OrganizationRow.id > after)
    if organization_id is not None:
        query = query.where(OrganizationRow.id == organization_id)
    with translated():
        async with database.sessions() as session:
            return [
                Application(
                    name,
                    row.version,
                    version,
                    # What an older version could not be applied for, the one that is due may have put right.
                    row.fault if row.tried == version else None,
                    to_microseconds(row.updated_at),
                )
                for row, name, version in await session.execute(query)
            ]


async def add(database: Database, pack: RulePack, by: str) -> StoredPack:
    """A new pack.

    Raises:
        Rejected: the id is taken.
        Unavailable: PostgreSQL is away.
    """
    taken = conflict(f"the rule pack {pack.id!r} exists already", constraint="rule_packs_pkey")
    with translated(), taken:
        async with database.sessions.begin() as session:
            row = RulePackRow(id=pack.id, name=pack.name, rules=_definitions(pack), changed_by=by)
            session.add(row)
            await session.flush()
            session.add(_version_row(pack, 1, by))
            await session.refresh(row, ["created_at", "version"])
            return _stored(row)


async def put(database: Database, pack: RulePack, by: str, expected: Precondition) -> tuple[StoredPack, bool]:
    """Make or replace a pack, and whether it was made; the organizations that have it get it afterwards.

    Raises:
        Rejected: it is not what was expected, or somebody else has just made one of this id.
        Unavailable: PostgreSQL is away.
    """
    with translated():
        async with database.sessions.begin() as session:
            row = await session.get(RulePackRow, pack.id, with_for_update=True)
            expected.check(_stored(row).tag if row else None)
            if row is not None:
                if _stored(row).pack == pack:
                    return _stored(row), False
                row.name, row.rules, row.version = pack.name, _definitions(pack), row.version + 1
                row.updated_at, row.changed_by = func.now(), by
                session.add(_version_row(pack, row.version, by))
                old = RulePackVersionRow.version <= row.version - VERSIONS_KEPT
                await session.execute(delete(RulePackVersionRow).where(RulePackVersionRow.pack_id == pack.id, old))
                return _stored(row), False
    return await add(database, pack, by), True


async def remove(database: Database, pack_id: str, expected: Precondition) -> bool:
    """Whether there was such a pack.

    Raises:
        Rejected: it is not what was expected, or organizations have it.
        Unavailable: PostgreSQL is away.
    """
    with translated():
        async with database.sessions.begin() as session:
            row = await session.get(RulePackRow, pack_id, with_for_update=True)
            if row is None:
                return False
            expected.check(_stored(row).tag)
            count = select(func.count()).where(RulePackOrganizationRow.pack_id == pack_id)
            if users := await session.scalar(count):
                raise Rejected(
                    "conflict",
                    f"{users} organization{'s have' if users > 1 else ' has'} this pack: detach it there first",
                )
            await session.delete(row)
    return True


def pack_of(row: RulePackRow) -> RulePack:
    return _pack(row.id, row.name, row.rules)


def _stored(row: RulePackRow) -> StoredPack:
    return StoredPack(pack_of(row), row.version, tag_within(to_microseconds(row.created_at), row.version))


def _pack(pack_id: str, name: str, rules: list[Any]) -> RulePack:
    return RulePack(pack_id, name, msgspec.convert(rules, tuple[Rule, ...]))


def _definitions(pack: RulePack) -> list[Any]:
    definitions: list[Any] = msgspec.to_builtins(list(pack.rules))
    return definitions


def _version_row(pack: RulePack, version: int, by: str) -> RulePackVersionRow:
    return RulePackVersionRow(pack_id=pack.id, version=version, name=pack.name, rules=_definitions(pack), changed_by=by)

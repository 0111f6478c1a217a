"""Changing the rules of an organization: one transaction at a time, and each leaves a version behind."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

import msgspec
from sqlalchemy import ColumnElement, and_, delete, func, null, select
from sqlalchemy.ext.asyncio import AsyncSession

from iotplatform.adapters.postgres.connection import Database
from iotplatform.adapters.postgres.errors import translated
from iotplatform.adapters.postgres.models import OrganizationRow, RulePackRow, RuleRow, RuleVersionRow
from iotplatform.adapters.postgres.rules import StoredRule, rule_of, stored
from iotplatform.domain.precondition import NO_PRECONDITION, Precondition
from iotplatform.domain.rule import Rule
from iotplatform.domain.rule_pack import id_in_organization
from iotplatform.errors import Rejected

# Of a rule, and of the rules of an organization that were deleted: what is older is forgotten.
VERSIONS_KEPT: Final = 200
DELETED_KEPT: Final = 500


@asynccontextmanager
async def changing(database: Database, epoch: int) -> AsyncIterator[AsyncSession]:
    """A transaction that alone changes the rules of this organization.

    Raises:
        Rejected: the organization is gone.
        Unavailable: PostgreSQL is away; it may have been committed.
    """
    with translated():
        async with database.sessions.begin() as session:
            await lock(session, epoch)
            yield session


async def lock(session: AsyncSession, epoch: int) -> None:
    # Goes together with the locks that foreign keys take: nobody waits but others who change rules.
    query = select(OrganizationRow.epoch).where(OrganizationRow.epoch == epoch).with_for_update(key_share=True)
    if await session.scalar(query) is None:
        raise Rejected("not_found", "the organization is gone")


async def add(database: Database, epoch: int, rule: Rule, by: str) -> StoredRule:
    """A new rule.

    Raises:
        Rejected: the id is taken, or the organization is gone.
        Unavailable: PostgreSQL is away.
    """
    async with changing(database, epoch) as session:
        if await session.get(RuleRow, (epoch, rule.id)) is not None:
            raise Rejected("conflict", f"the rule {rule.id!r} exists already")
        return await write(session, epoch, None, rule, by)


async def put(
    database: Database, epoch: int, rule: Rule, by: str, expected: Precondition = NO_PRECONDITION
) -> tuple[StoredRule, bool]:
    """Make or replace a rule; and whether it was made. One that is like this already stays in its version.

    Raises:
        Rejected: it is not what was expected, it is a pack's, or the organization is gone.
        Unavailable: PostgreSQL is away.
    """
    async with changing(database, epoch) as session:
        row = await session.get(RuleRow, (epoch, rule.id))
        expected.check(row.version if row else None)
        if row is not None:
            _check_own(row)
        return await write(session, epoch, row, rule, by), row is None


async def switch(
    database: Database, epoch: int, rule_id: str, by: str, expected: Precondition, *, on: bool
) -> StoredRule | None:
    """Enable or disable a rule, also a pack's; None when there is none.

    Raises:
        Rejected: it is not what was expected, its pack has it disabled, or the organization is gone.
        Unavailable: PostgreSQL is away.
    """
    async with changing(database, epoch) as session:
        row = await session.get(RuleRow, (epoch, rule_id))
        if row is None:
            return None
        expected.check(row.version)
        if row.pack_id is not None and on:
            await _check_enabled_by_pack(session, row.pack_id, rule_id)
        rule = msgspec.structs.replace(rule_of(row.definition), enabled=on)
        off_here = row.pack_id is not None and not on
        return await write(session, epoch, row, rule, by, pack_id=row.pack_id, switched_off=off_here)


async def remove(database: Database, epoch: int, rule_id: str, by: str, expected: Precondition) -> bool:
    """Whether there was such a rule.

    Raises:
        Rejected: it is not what was expected, or it is a pack's.
        Unavailable: PostgreSQL is away.
    """
    async with changing(database, epoch) as session:
        row = await session.get(RuleRow, (epoch, rule_id))
        if row is None:
            return False
        expected.check(row.version)
        _check_own(row)
        await erase(session, row, by)
        await forget_deleted(session, epoch)
        return True


async def write(
    session: AsyncSession,
    epoch: int,
    row: RuleRow | None,
    rule: Rule,
    by: str,
    *,
    pack_id: str | None = None,
    switched_off: bool = False,
) -> StoredRule:
    """Make the row or change it, inside of `changing`."""
    definition = msgspec.to_builtins(rule)
    if row is None:
        version = await _last_version(session, epoch, rule.id) + 1
        row = RuleRow(epoch=epoch, id=rule.id, definition=definition, version=version, pack_id=pack_id, changed_by=by)
        row.switched_off = switched_off
        session.add(row)
    elif (rule_of(row.definition), row.pack_id, row.switched_off) == (rule, pack_id, switched_off):
        return stored(row)
    else:
        version = row.version + 1
        row.definition, row.version, row.pack_id, row.switched_off = definition, version, pack_id, switched_off
        row.updated_at, row.changed_by = func.now(), by
    await session.flush()
    if version > VERSIONS_KEPT:
        old = RuleVersionRow.version <= version - VERSIONS_KEPT
        await session.execute(delete(RuleVersionRow).where(_of(epoch, rule.id), old))
    return StoredRule(rule, version, pack_id)


async def erase(session: AsyncSession, row: RuleRow, by: str) -> None:
    """Delete the row and write that down, inside of `changing`."""
    session.add(
        RuleVersionRow(
            epoch=row.epoch,
            rule_id=row.id,
            version=row.version + 1,
            definition=null(),
            pack_id=row.pack_id,
            changed_by=by,
        )
    )
    await session.delete(row)
    await session.flush()


async def forget_deleted(session: AsyncSession, epoch: int) -> None:
    """Ids can be used once and never again, so the past of rules that are no more is bounded too."""
    live = select(RuleRow.id).where(RuleRow.epoch == epoch, RuleRow.id == RuleVersionRow.rule_id).exists()
    too_many = (
        select(RuleVersionRow.rule_id)
        .where(RuleVersionRow.epoch == epoch, RuleVersionRow.definition.is_(None), ~live)
        .group_by(RuleVersionRow.rule_id)
        .order_by(func.max(RuleVersionRow.changed_at).desc())
        .offset(DELETED_KEPT)
    )
    forgotten = RuleVersionRow.rule_id.in_(too_many)
    await session.execute(
        delete(RuleVersionRow)
        .where(RuleVersionRow.epoch == epoch, forgotten)
        .execution_options(synchronize_session=False)
    )


async def _last_version(session: AsyncSession, epoch: int, rule_id: str) -> int:
    """So that a version of a rule that is made again is never one of before."""
    return await session.scalar(select(func.max(RuleVersionRow.version)).where(_of(epoch, rule_id))) or 0


async def _check_enabled_by_pack(session: AsyncSession, pack_id: str, rule_id: str) -> None:
    pack = await session.get(RulePackRow, pack_id)
    for definition in pack.rules if pack else ():
        if id_in_organization(pack_id, definition["id"]) == rule_id and not definition.get("enabled", True):
            raise Rejected("conflict", f"the rule pack {pack_id!r} has this rule disabled: enable it there")


def _check_own(row: RuleRow) -> None:
    if row.pack_id is not None:
        raise Rejected(
            "conflict",
            f"the rule belongs to the rule pack {row.pack_id!r}: change it there, disable it here by POST to "
            "its /disable, or detach the pack",
        )


def _of(epoch: int, rule_id: str) -> ColumnElement[bool]:
    return and_(RuleVersionRow.epoch == epoch, RuleVersionRow.rule_id == rule_id)

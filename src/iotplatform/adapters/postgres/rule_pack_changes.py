"""A rule pack in an organization: applied, brought to the pack's newest version, detached.

Each is one transaction in one organization, with the version it brings in a row of its own: whatever is interrupted
has happened or not, and what is still to do can be read from the rows.
"""

from __future__ import annotations

from typing import Final

import msgspec
from sqlalchemy import func, select
from sqlalchemy.ext.asyncio import AsyncSession

from iotplatform.adapters.postgres.connection import Database
from iotplatform.adapters.postgres.errors import translated
from iotplatform.adapters.postgres.models import OrganizationRow, RulePackOrganizationRow, RulePackRow, RuleRow
from iotplatform.adapters.postgres.rule_changes import changing, erase, forget_deleted, write
from iotplatform.adapters.postgres.rule_packs import pack_of
from iotplatform.domain.rule_pack import RulePack
from iotplatform.errors import Rejected

KEEPER: Final = "rule pack"


class Due(msgspec.Struct, frozen=True):
    """`version` is the pack's, when it was looked up."""

    pack_id: str
    epoch: int
    organization_id: str
    version: int


async def apply(database: Database, pack_id: str, epoch: int, organization_id: str, by: str) -> bool | None:
    """Give an organization the pack's rules as they are now; whether it is new there, None without such a pack.

    Raises:
        Rejected: one of its rules has the id of a rule that is not the pack's; or the organization is gone.
        Unavailable: PostgreSQL is away.
    """
    async with changing(database, epoch) as session:
        pack = await session.get(RulePackRow, pack_id, with_for_update={"read": True})
        if pack is None:
            return None
        if fault := await _bring(session, epoch, organization_id, pack_of(pack), by):
            raise Rejected("conflict", fault)
        row = await session.get(RulePackOrganizationRow, (pack_id, epoch))
        if row is None:
            session.add(
                RulePackOrganizationRow(
                    pack_id=pack_id, epoch=epoch, version=pack.version, tried=pack.version, changed_by=by
                )
            )
        else:
            _settle(row, pack.version, None, by)
        return row is None


async def detach(database: Database, pack_id: str, epoch: int, by: str) -> bool:
    """Take the pack and its rules away from an organization; whether it had it."""
    async with changing(database, epoch) as session:
        row = await session.get(RulePackOrganizationRow, (pack_id, epoch))
        if row is None:
            return False
        for rule in await _rules(session, epoch, pack_id):
            await erase(session, rule, by)
        await forget_deleted(session, epoch)
        await session.delete(row)
        return True


async def due(database: Database, limit: int) -> list[Due]:
    """Organizations that a pack's newest version has not been tried in yet."""
    query = (
        select(RulePackOrganizationRow.pack_id, RulePackOrganizationRow.epoch, OrganizationRow.id, RulePackRow.version)
        .join(RulePackRow, RulePackRow.id == RulePackOrganizationRow.pack_id)
        .join(OrganizationRow, OrganizationRow.epoch == RulePackOrganizationRow.epoch)
        .where(RulePackOrganizationRow.tried < RulePackRow.version)
        .order_by(RulePackOrganizationRow.pack_id, RulePackOrganizationRow.epoch)
        .limit(limit)
    )
    with translated():
        async with database.sessions() as session:
            return [Due(*row) for row in await session.execute(query)]


async def catch_up(database: Database, wanted: Due) -> str | None:
    """Bring the pack's newest version to an organization that has the pack; why it could not be, None when it was.

    Raises:
        Rejected: the organization is gone.
        Unavailable: PostgreSQL is away.
    """
    try:
        return await _catch_up(database, wanted)
    except Rejected as error:
        if error.kind != "over_quota":
            raise
        await _give_up(database, wanted, error.detail)
        return error.detail


async def _give_up(database: Database, wanted: Due, fault: str) -> None:
    """In a transaction of its own: the one before ended with what could not be done."""
    async with changing(database, wanted.epoch) as session:
        row = await session.get(RulePackOrganizationRow, (wanted.pack_id, wanted.epoch))
        if row is not None and row.tried < wanted.version:
            _settle(row, wanted.version, fault, f"{KEEPER} {wanted.pack_id}")


async def _catch_up(database: Database, wanted: Due) -> str | None:
    async with changing(database, wanted.epoch) as session:
        pack = await session.get(RulePackRow, wanted.pack_id, with_for_update={"read": True})
        row = await session.get(RulePackOrganizationRow, (wanted.pack_id, wanted.epoch))
        if pack is None or row is None or row.tried >= pack.version:
            return None
        by = f"{KEEPER} {pack.id}, changed by {pack.changed_by}"
        fault = await _bring(session, wanted.epoch, wanted.organization_id, pack_of(pack), by)
        _settle(row, pack.version, fault, by)
        return fault


async def _bring(session: AsyncSession, epoch: int, organization_id: str, pack: RulePack, by: str) -> str | None:
    """Make the pack's rules in the organization what they are in the pack; or say why not, and change nothing."""
    wanted = {rule.id: rule for rule in pack.rules_for(organization_id)}
    query = select(RuleRow).where(RuleRow.epoch == epoch, RuleRow.id.in_(list(wanted)))
    found = {row.id: row for row in await session.scalars(query)}
    for row in found.values():
        if row.pack_id != pack.id:
            owner = f"of the rule pack {row.pack_id!r}" if row.pack_id else "of the organization's own"
            return f"the pack brings a rule {row.id!r}, and there is one {owner}: delete or rename one of them"
    for row in await _rules(session, epoch, pack.id):
        if row.id not in wanted:
            await erase(session, row, by)
    for rule_id, rule in wanted.items():
        present = found.get(rule_id)
        is_off = present is not None and present.switched_off
        kept = msgspec.structs.replace(rule, enabled=False) if is_off else rule
        await write(session, epoch, present, kept, by, pack_id=pack.id, switched_off=is_off)
    await forget_deleted(session, epoch)
    return None


async def _rules(session: AsyncSession, epoch: int, pack_id: str) -> list[RuleRow]:
    return list(await session.scalars(select(RuleRow).where(RuleRow.epoch == epoch, RuleRow.pack_id == pack_id)))


def _settle(row: RulePackOrganizationRow, tried: int, fault: str | None, by: str) -> None:
    row.tried, row.fault, row.changed_by = tried, fault, by
    row.updated_at = func.now()
    if fault is None:
        row.version = tried

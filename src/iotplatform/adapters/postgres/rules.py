"""The rules of an organization and their history, as they are read."""

from __future__ import annotations

import msgspec
from sqlalchemy import Select, or_, select

from iotplatform.adapters.postgres.connection import Database
from iotplatform.adapters.postgres.errors import translated
from iotplatform.adapters.postgres.models import RuleRow, RuleVersionRow
from iotplatform.domain.rule import Rule
from iotplatform.domain.timestamps import to_microseconds


class StoredRule(msgspec.Struct, frozen=True):
    rule: Rule
    version: int
    pack_id: str | None


class RuleFilter(msgspec.Struct, frozen=True):
    """`text` is looked for in ids and names; `pack_id` names the pack that the rules come from."""

    enabled: bool | None = None
    severities: tuple[str, ...] = ()
    pack_id: str | None = None
    text: str | None = None

    def narrow(self, query: Select[RuleRow]) -> Select[RuleRow]:
        definition = RuleRow.definition
        if self.enabled is not None:
            query = query.where(definition["enabled"].as_boolean() == self.enabled)
        if self.severities:
            query = query.where(definition["severity"].as_string().in_(self.severities))
        if self.pack_id is not None:
            query = query.where(RuleRow.pack_id == self.pack_id)
        if self.text:
            name = definition["name"].as_string()
            query = query.where(
                or_(RuleRow.id.icontains(self.text, autoescape=True), name.icontains(self.text, autoescape=True))
            )
        return query


class RuleVersion(msgspec.Struct, frozen=True):
    """What a rule was from `changed_at` (microseconds) on; None: it was deleted."""

    version: int
    changed_at: int
    changed_by: str | None
    pack_id: str | None
    rule: Rule | None


async def find(database: Database, epoch: int, rule_id: str) -> StoredRule | None:
    with translated():
        async with database.sessions() as session:
            row = await session.get(RuleRow, (epoch, rule_id))
            return None if row is None else stored(row)


async def page(database: Database, epoch: int, limit: int, after: str | None, wanted: RuleFilter) -> list[StoredRule]:
    """By id."""
    query = wanted.narrow(select(RuleRow).where(RuleRow.epoch == epoch).order_by(RuleRow.id).limit(limit))
    if after is not None:
        query = query.where(RuleRow.id > after)
    with translated():
        async with database.sessions() as session:
            return [stored(row) for row in await session.scalars(query)]


async def versions(database: Database, epoch: int, rule_id: str, limit: int, before: int | None) -> list[RuleVersion]:
    """The newest first."""
    query = (
        select(RuleVersionRow)
        .where(RuleVersionRow.epoch == epoch, RuleVersionRow.rule_id == rule_id)
        .order_by(RuleVersionRow.version.desc())
        .limit(limit)
    )
    if before is not None:
        query = query.where(RuleVersionRow.version < before)
    with translated():
        async with database.sessions() as session:
            return [_version(row) for row in await session.scalars(query)]


async def version(database: Database, epoch: int, rule_id: str, number: int) -> RuleVersion | None:
    with translated():
        async with database.sessions() as session:
            row = await session.get(RuleVersionRow, (epoch, rule_id, number))
            return None if row is None else _version(row)


def stored(row: RuleRow) -> StoredRule:
    return StoredRule(rule_of(row.definition), row.version, row.pack_id)


def rule_of(definition: object) -> Rule:
    return msgspec.convert(definition, Rule)


def _version(row: RuleVersionRow) -> RuleVersion:
    rule = None if row.definition is None else rule_of(row.definition)
    return RuleVersion(row.version, to_microseconds(row.changed_at), row.changed_by, row.pack_id, rule)

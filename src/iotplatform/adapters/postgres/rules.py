"""The rules of an organization."""

from __future__ import annotations

import msgspec
from sqlalchemy import select

from iotplatform.adapters.postgres.connection import Database
from iotplatform.adapters.postgres.errors import translated
from iotplatform.adapters.postgres.models import RuleRow
from iotplatform.domain.rule import Rule


async def find(database: Database, epoch: int, rule_id: str) -> Rule | None:
    with translated():
        async with database.sessions() as session:
            row = await session.get(RuleRow, (epoch, rule_id))
            return None if row is None else msgspec.convert(row.definition, Rule)


async def page(database: Database, epoch: int, limit: int, after: str | None) -> list[Rule]:
    """By id."""
    query = select(RuleRow).where(RuleRow.epoch == epoch).order_by(RuleRow.id).limit(limit)
    if after is not None:
        query = query.where(RuleRow.id > after)
    with translated():
        async with database.sessions() as session:
            return [msgspec.convert(row.definition, Rule) for row in await session.scalars(query)]

"""Alarm history, as it is read."""

from __future__ import annotations

import datetime as dt
import uuid
from typing import Any, TypeVar

import msgspec
from sqlalchemy import Select, and_, or_, select

from iotplatform.adapters.postgres.connection import Database
from iotplatform.adapters.postgres.errors import translated
from iotplatform.adapters.postgres.models import AlarmEventRow, AlarmRow

Query = TypeVar("Query", bound=Select[Any])


class AlarmFilter(msgspec.Struct, frozen=True):
    """`since` and `until` bound `raised_at`, the second one exclusively."""

    state: str | None = None
    device_ids: tuple[str, ...] = ()
    severities: tuple[str, ...] = ()
    since: dt.datetime | None = None
    until: dt.datetime | None = None
    acknowledged: bool | None = None
    assigned_to: tuple[str, ...] = ()
    rule_ids: tuple[str, ...] = ()
    sensors: tuple[str, ...] = ()


async def find(database: Database, epoch: int, alarm_id: uuid.UUID) -> AlarmRow | None:
    with translated():
        async with database.sessions() as session:
            row = await session.get(AlarmRow, alarm_id)
            return row if row is not None and row.epoch == epoch else None


async def page(
    database: Database, epoch: int, limit: int, after: tuple[dt.datetime, uuid.UUID] | None, wanted: AlarmFilter
) -> list[AlarmRow]:
    """The newest first; `after` is the time and id of the last one of the page before."""
    query = (
        select(AlarmRow).where(AlarmRow.epoch == epoch).order_by(AlarmRow.raised_at.desc(), AlarmRow.id).limit(limit)
    )
    if after is not None:
        raised_at, alarm_id = after
        query = query.where(
            AlarmRow.raised_at <= raised_at,
            or_(AlarmRow.raised_at < raised_at, and_(AlarmRow.raised_at == raised_at, AlarmRow.id > alarm_id)),
        )
    with translated():
        async with database.sessions() as session:
            return list(await session.scalars(_narrowed(query, wanted)))


async def unacknowledged(database: Database, epoch: int, most: int, wanted: AlarmFilter) -> list[uuid.UUID]:
    """The ids of at most so many that nobody has acknowledged, the oldest first."""
    query = (
        select(AlarmRow.id)
        .where(AlarmRow.epoch == epoch, AlarmRow.acknowledged_at.is_(None))
        .order_by(AlarmRow.raised_at, AlarmRow.id)
        .limit(most)
    )
    with translated():
        async with database.sessions() as session:
            return list(await session.scalars(_narrowed(query, wanted)))


async def timeline(
    database: Database, epoch: int, alarm_id: uuid.UUID, limit: int, after: int | None
) -> list[AlarmEventRow]:
    """In the order in which it happened; `after` is the id of the last one of the page before."""
    query = (
        select(AlarmEventRow)
        .where(AlarmEventRow.alarm_id == alarm_id, AlarmEventRow.epoch == epoch)
        .order_by(AlarmEventRow.id)
        .limit(limit)
    )
    if after is not None:
        query = query.where(AlarmEventRow.id > after)
    with translated():
        async with database.sessions() as session:
            return list(await session.scalars(query))


def _narrowed(query: Query, wanted: AlarmFilter) -> Query:
    if wanted.state is not None:
        query = query.where(AlarmRow.state == wanted.state)
    if wanted.since is not None:
        query = query.where(AlarmRow.raised_at >= wanted.since)
    if wanted.until is not None:
        query = query.where(AlarmRow.raised_at < wanted.until)
    if wanted.acknowledged is not None:
        never = AlarmRow.acknowledged_at.is_(None)
        query = query.where(~never if wanted.acknowledged else never)
    for column, values in (
        (AlarmRow.device_id, wanted.device_ids),
        (AlarmRow.severity, wanted.severities),
        (AlarmRow.assigned_to, wanted.assigned_to),
        (AlarmRow.rule_id, wanted.rule_ids),
        (AlarmRow.sensor, wanted.sensors),
    ):
        if values:
            query = query.where(column.in_(values))
    return query

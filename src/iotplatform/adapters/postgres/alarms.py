"""Alarm history, as it is read."""

from __future__ import annotations

import datetime as dt
import uuid

import msgspec
from sqlalchemy import and_, or_, select

from iotplatform.adapters.postgres.connection import Database
from iotplatform.adapters.postgres.errors import translated
from iotplatform.adapters.postgres.models import AlarmRow


class AlarmFilter(msgspec.Struct, frozen=True):
    """`since` and `until` bound `raised_at`, the second one exclusively."""

    state: str | None = None
    device_ids: tuple[str, ...] = ()
    severities: tuple[str, ...] = ()
    since: dt.datetime | None = None
    until: dt.datetime | None = None


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
    if wanted.state is not None:
        query = query.where(AlarmRow.state == wanted.state)
    if wanted.device_ids:
        query = query.where(AlarmRow.device_id.in_(wanted.device_ids))
    if wanted.severities:
        query = query.where(AlarmRow.severity.in_(wanted.severities))
    if wanted.since is not None:
        query = query.where(AlarmRow.raised_at >= wanted.since)
    if wanted.until is not None:
        query = query.where(AlarmRow.raised_at < wanted.until)
    with translated():
        async with database.sessions() as session:
            return list(await session.scalars(query))

"""Deliveries of notifications, as they are read."""

from __future__ import annotations

import datetime as dt
import uuid
from typing import Final

import msgspec
from sqlalchemy import and_, or_, select

from iotplatform.adapters.postgres.connection import Database
from iotplatform.adapters.postgres.errors import translated
from iotplatform.adapters.postgres.models import DeliveryRow


class DeliveryFilter(msgspec.Struct, frozen=True):
    """`since` and `until` bound `created_at`, the second one exclusively."""

    alarm_ids: tuple[uuid.UUID, ...] = ()
    channel_ids: tuple[str, ...] = ()
    transitions: tuple[str, ...] = ()
    states: tuple[str, ...] = ()
    since: dt.datetime | None = None
    until: dt.datetime | None = None


EVERYTHING: Final = DeliveryFilter()


async def page(
    database: Database,
    epoch: int,
    limit: int,
    after: tuple[dt.datetime, uuid.UUID] | None,
    wanted: DeliveryFilter = EVERYTHING,
) -> list[DeliveryRow]:
    """The newest first; `after` is the time and id of the last one of the page before."""
    query = (
        select(DeliveryRow)
        .where(DeliveryRow.epoch == epoch)
        .order_by(DeliveryRow.created_at.desc(), DeliveryRow.id)
        .limit(limit)
    )
    if after is not None:
        created_at, delivery_id = after
        query = query.where(
            DeliveryRow.created_at <= created_at,
            or_(
                DeliveryRow.created_at < created_at,
                and_(DeliveryRow.created_at == created_at, DeliveryRow.id > delivery_id),
            ),
        )
    if wanted.since is not None:
        query = query.where(DeliveryRow.created_at >= wanted.since)
    if wanted.until is not None:
        query = query.where(DeliveryRow.created_at < wanted.until)
    if wanted.alarm_ids:
        query = query.where(DeliveryRow.alarm_id.in_(wanted.alarm_ids))
    for column, values in (
        (DeliveryRow.channel_id, wanted.channel_ids),
        (DeliveryRow.transition, wanted.transitions),
        (DeliveryRow.state, wanted.states),
    ):
        if values:
            query = query.where(column.in_(values))
    with translated():
        async with database.sessions() as session:
            return list(await session.scalars(query))

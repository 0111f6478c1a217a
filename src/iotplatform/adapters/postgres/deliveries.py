"""Deliveries of notifications, as they are read."""

from __future__ import annotations

import datetime as dt
import uuid

from sqlalchemy import and_, or_, select

from iotplatform.adapters.postgres.connection import Database
from iotplatform.adapters.postgres.errors import translated
from iotplatform.adapters.postgres.models import DeliveryRow


async def page(
    database: Database, epoch: int, limit: int, after: tuple[dt.datetime, uuid.UUID] | None
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
    with translated():
        async with database.sessions() as session:
            return list(await session.scalars(query))

"""The devices of an organization."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable
from typing import Any

from sqlalchemy import or_, select

from iotplatform.adapters.postgres.connection import Database
from iotplatform.adapters.postgres.errors import conflict, missing, translated
from iotplatform.adapters.postgres.models import DeviceRow, DeviceTokenRow
from iotplatform.adapters.postgres.versions import count_version


async def add(
    database: Database,
    epoch: int,
    device_id: str,
    *,
    name: str,
    tags: list[str],
    metadata: dict[str, Any],
    token_id: str,
    token_expires_at: dt.datetime,
) -> DeviceRow:
    """A device with its first token.

    Raises:
        Rejected: the id is taken in this organization, or the organization is gone.
        Unavailable: PostgreSQL is away.
    """
    taken = conflict(f"the device {device_id!r} exists already", constraint="devices_pkey")
    with translated(), missing("the organization is gone"), taken:
        async with database.sessions.begin() as session:
            row = DeviceRow(epoch=epoch, id=device_id, name=name, tags=tags, attributes=metadata)
            session.add(row)
            await session.flush()
            await session.refresh(row, ["created_at", "version"])
            session.add(
                DeviceTokenRow(id=token_id, epoch=epoch, device_id=device_id, kind="jwt", expires_at=token_expires_at)
            )
    return row


async def find(database: Database, epoch: int, device_id: str) -> DeviceRow | None:
    with translated():
        async with database.sessions() as session:
            return await session.get(DeviceRow, (epoch, device_id))


async def change(
    database: Database, epoch: int, device_id: str, apply: Callable[[DeviceRow], None]
) -> DeviceRow | None:
    """Let `apply` change the locked row; None when there is none. What it raises leaves everything as it was."""
    with translated():
        async with database.sessions.begin() as session:
            row = await session.get(DeviceRow, (epoch, device_id), with_for_update={"key_share": True})
            if row is not None:
                apply(row)
                count_version(session, row)
            return row


async def page(
    database: Database, epoch: int, limit: int, after: str | None, *, tags: list[str], text: str | None
) -> list[DeviceRow]:
    """By id; those that have all the `tags`, and `text` in their id or name."""
    query = select(DeviceRow).where(DeviceRow.epoch == epoch).order_by(DeviceRow.id).limit(limit)
    if after is not None:
        query = query.where(DeviceRow.id > after)
    if tags:
        query = query.where(DeviceRow.tags.contains(tags))
    if text:
        query = query.where(
            or_(DeviceRow.id.icontains(text, autoescape=True), DeviceRow.name.icontains(text, autoescape=True))
        )
    with translated():
        async with database.sessions() as session:
            return list(await session.scalars(query))

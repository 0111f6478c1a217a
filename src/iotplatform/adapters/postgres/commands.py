"""Commands as management makes and shows them."""

from __future__ import annotations

import datetime as dt
import uuid
from typing import Any

import msgspec
from sqlalchemy import and_, or_, select

from iotplatform.adapters.postgres.connection import Database
from iotplatform.adapters.postgres.errors import translated
from iotplatform.adapters.postgres.models import CommandRow, DeviceRow
from iotplatform.errors import Rejected


class NewCommand(msgspec.Struct, frozen=True):
    name: str
    payload: Any
    expires_at: dt.datetime
    created_by: str
    idempotency_key: str | None
    fingerprint: str


async def add(database: Database, epoch: int, device_id: str, new: NewCommand) -> tuple[CommandRow, bool]:
    """The command, and whether it was made now rather than by an earlier request with its key.

    Raises:
        Rejected: there is no such device, or the key belongs to another command.
        Unavailable: PostgreSQL is away.
    """
    with translated():
        async with database.sessions.begin() as session:
            # Locked, so that of two requests with one key the second finds the command of the first.
            device = select(DeviceRow.id).where(DeviceRow.epoch == epoch, DeviceRow.id == device_id)
            if await session.scalar(device.with_for_update(key_share=True)) is None:
                raise Rejected("not_found", f"there is no device {device_id!r}")
            if new.idempotency_key is not None:
                known = await session.scalar(
                    select(CommandRow).where(
                        CommandRow.epoch == epoch,
                        CommandRow.device_id == device_id,
                        CommandRow.idempotency_key == new.idempotency_key,
                    )
                )
                if known is not None and known.fingerprint != new.fingerprint:
                    raise Rejected("conflict", "the Idempotency-Key was used for another command of this device")
                if known is not None:
                    return known, False
            row = CommandRow(
                id=uuid.uuid4(),
                epoch=epoch,
                device_id=device_id,
                name=new.name,
                payload=new.payload,
                expires_at=new.expires_at,
                created_by=new.created_by,
                idempotency_key=new.idempotency_key,
                fingerprint=new.fingerprint,
            )
            session.add(row)
            await session.flush()
            await session.refresh(row)
            return row, True


async def find(database: Database, epoch: int, device_id: str, command_id: uuid.UUID) -> CommandRow | None:
    query = select(CommandRow).where(
        CommandRow.id == command_id, CommandRow.epoch == epoch, CommandRow.device_id == device_id
    )
    with translated():
        async with database.sessions() as session:
            return await session.scalar(query)


async def page(
    database: Database,
    epoch: int,
    device_id: str,
    limit: int,
    after: tuple[dt.datetime, uuid.UUID] | None,
    states: tuple[str, ...],
) -> list[CommandRow]:
    """The newest first."""
    query = (
        select(CommandRow)
        .where(CommandRow.epoch == epoch, CommandRow.device_id == device_id)
        .order_by(CommandRow.created_at.desc(), CommandRow.id)
        .limit(limit)
    )
    if states:
        query = query.where(CommandRow.state.in_(states))
    if after is not None:
        at, command_id = after
        query = query.where(
            or_(CommandRow.created_at < at, and_(CommandRow.created_at == at, CommandRow.id > command_id))
        )
    with translated():
        async with database.sessions() as session:
            return list(await session.scalars(query))

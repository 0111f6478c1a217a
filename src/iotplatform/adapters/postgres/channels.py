"""The channels of an organization."""

from __future__ import annotations

import msgspec
from sqlalchemy import Boolean, delete, func, literal_column, select
from sqlalchemy.dialects.postgresql import insert

from iotplatform.adapters.postgres.connection import Database
from iotplatform.adapters.postgres.errors import conflict, missing, translated
from iotplatform.adapters.postgres.models import ChannelRow
from iotplatform.domain.channel import Channel


async def find(database: Database, epoch: int, channel_id: str) -> Channel | None:
    with translated():
        async with database.sessions() as session:
            row = await session.get(ChannelRow, (epoch, channel_id))
            return None if row is None else _channel(row)


async def page(database: Database, epoch: int, limit: int, after: str | None) -> list[Channel]:
    """By id."""
    query = select(ChannelRow).where(ChannelRow.epoch == epoch).order_by(ChannelRow.id).limit(limit)
    if after is not None:
        query = query.where(ChannelRow.id > after)
    with translated():
        async with database.sessions() as session:
            return [_channel(row) for row in await session.scalars(query)]


async def add(database: Database, epoch: int, channel: Channel) -> None:
    """A new channel.

    Raises:
        Rejected: the id is taken, or the organization is gone.
        Unavailable: PostgreSQL is away.
    """
    taken = conflict(f"the channel {channel.id!r} exists already", constraint="channels_pkey")
    with translated(), missing("the organization is gone"), taken:
        async with database.sessions.begin() as session:
            session.add(ChannelRow(epoch=epoch, **msgspec.to_builtins(channel)))


async def put(database: Database, epoch: int, channel: Channel) -> bool:
    """Make or replace a channel; whether it was made."""
    fields = msgspec.to_builtins(channel)
    replaced = {name: value for name, value in fields.items() if name != "id"}
    statement = (
        insert(ChannelRow)
        .values(epoch=epoch, **fields)
        .on_conflict_do_update(
            constraint="channels_pkey",
            set_={**replaced, "updated_at": func.now(), "version": ChannelRow.version + 1},
        )
        # A row that no transaction has replaced or locked yet is a new one.
        .returning(literal_column("xmax = 0", Boolean()))
    )
    with translated(), missing("the organization is gone"):
        async with database.sessions.begin() as session:
            return bool(await session.scalar(statement))


async def remove(database: Database, epoch: int, channel_id: str) -> bool:
    """Whether there was such a channel."""
    statement = (
        delete(ChannelRow).where(ChannelRow.epoch == epoch, ChannelRow.id == channel_id).returning(ChannelRow.id)
    )
    with translated():
        async with database.sessions.begin() as session:
            return await session.scalar(statement) is not None


def _channel(row: ChannelRow) -> Channel:
    return msgspec.convert(
        {
            "id": row.id,
            "name": row.name,
            "type": row.type,
            "enabled": row.enabled,
            "severities": row.severities,
            "config": row.config,
        },
        Channel,
    )

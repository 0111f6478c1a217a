"""The channels of an organization."""

from __future__ import annotations

from collections.abc import Callable

import msgspec
from sqlalchemy import select

from iotplatform.adapters.postgres.connection import Database
from iotplatform.adapters.postgres.errors import conflict, missing, translated
from iotplatform.adapters.postgres.models import ChannelRow
from iotplatform.adapters.postgres.versions import count_version
from iotplatform.domain.channel import Channel

Check = Callable[[int | None], None]
# From the channel that is replaced, or None, to the one that is meant and its secrets, sealed.
Make = Callable[[ChannelRow | None], tuple[Channel, str | None]]


async def find(database: Database, epoch: int, channel_id: str) -> ChannelRow | None:
    with translated():
        async with database.sessions() as session:
            return await session.get(ChannelRow, (epoch, channel_id))


async def page(database: Database, epoch: int, limit: int, after: str | None) -> list[Channel]:
    """By id."""
    query = select(ChannelRow).where(ChannelRow.epoch == epoch).order_by(ChannelRow.id).limit(limit)
    if after is not None:
        query = query.where(ChannelRow.id > after)
    with translated():
        async with database.sessions() as session:
            return [channel_of(row) for row in await session.scalars(query)]


async def add(database: Database, epoch: int, channel: Channel, secrets: str | None = None) -> ChannelRow:
    """A new channel.

    Raises:
        Rejected: the id is taken, or the organization is gone.
        Unavailable: PostgreSQL is away.
    """
    taken = conflict(f"the channel {channel.id!r} exists already", constraint="channels_pkey")
    with translated(), missing("the organization is gone"), taken:
        async with database.sessions.begin() as session:
            row = ChannelRow(epoch=epoch, secrets=secrets, **msgspec.to_builtins(channel))
            session.add(row)
            await session.flush()
            await session.refresh(row, ["created_at", "version"])
            return row


async def put(database: Database, epoch: int, channel_id: str, make: Make, check: Check) -> tuple[ChannelRow, bool]:
    """Make or replace a channel; whether it was made. `check` is told the version that is to be replaced, or None.

    Raises:
        Rejected: by `check` or `make`; the organization is gone; or somebody else has made the channel in this moment.
        Unavailable: PostgreSQL is away.
    """
    with translated():
        async with database.sessions.begin() as session:
            row = await session.get(ChannelRow, (epoch, channel_id), with_for_update=True)
            check(row.version if row is not None else None)
            channel, secrets = make(row)
            if row is not None:
                # As it comes back from the database, so that what is the same is seen to be.
                for name, value in msgspec.json.decode(msgspec.json.encode(channel)).items():
                    setattr(row, name, value)
                row.secrets = secrets
                count_version(session, row)
                return row, False
    return await add(database, epoch, channel, secrets), True


async def remove(database: Database, epoch: int, channel_id: str, check: Check) -> bool:
    """Whether there was such a channel."""
    with translated():
        async with database.sessions.begin() as session:
            row = await session.get(ChannelRow, (epoch, channel_id), with_for_update=True)
            if row is None:
                return False
            check(row.version)
            await session.delete(row)
            return True


def channel_of(row: ChannelRow) -> Channel:
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

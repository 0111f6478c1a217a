"""Organizations: made together with all that belongs to a new one."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final

import msgspec
from sqlalchemy import Select, insert, select, text

from iotplatform.adapters.postgres.connection import Database
from iotplatform.adapters.postgres.errors import conflict, translated
from iotplatform.adapters.postgres.models import ChannelRow, OrganizationRow, PartitionRow, RuleRow
from iotplatform.adapters.postgres.removals import LOCK_ID
from iotplatform.adapters.postgres.versions import count_version
from iotplatform.domain.channel import Channel
from iotplatform.domain.organization import Organization
from iotplatform.domain.rule import Rule
from iotplatform.domain.timestamps import to_microseconds
from iotplatform.errors import Unavailable

# The transaction stays open meanwhile, and with it one of the pool's connections.
STREAM_TIMEOUT_S: Final = 10.0


async def create(
    database: Database,
    organization_id: str,
    name: str,
    partitions: int,
    *,
    rule: Rule,
    channel: Channel,
    make_stream: Callable[[Organization], Awaitable[None]],
) -> Organization:
    """Make an organization with its partitions, first rule and first channel, and its stream before anyone sees it.

    `make_stream` is called while nobody else can make an organization of this id, nor remove the stream of an earlier
    one. A stream without an organization can be left behind: it is harmless, and replaced when the id is used again.

    Raises:
        Rejected: the id is taken.
        Unavailable: PostgreSQL is away, or the stream can't be made; then nothing was made.
    """
    taken = conflict(f"the organization {organization_id!r} exists already", constraint="organizations_id_key")
    with translated(), taken:
        async with database.sessions.begin() as session:
            await session.execute(text(LOCK_ID.replace("$1", ":id")), {"id": organization_id})
            row = OrganizationRow(id=organization_id, name=name, partitions=partitions)
            session.add(row)
            await session.flush()
            epoch = row.epoch
            await session.execute(
                insert(PartitionRow), [{"epoch": epoch, "number": number} for number in range(partitions)]
            )
            session.add(RuleRow(epoch=epoch, id=rule.id, definition=msgspec.to_builtins(rule)))
            session.add(ChannelRow(epoch=epoch, **msgspec.to_builtins(channel)))
            await session.flush()
            await session.refresh(row, ["created_at"])
            organization = _organization(row)
            await _in_time(make_stream(organization))
    return organization


async def _in_time(work: Awaitable[None]) -> None:
    try:
        async with asyncio.timeout(STREAM_TIMEOUT_S):
            await work
    except TimeoutError as error:
        raise Unavailable("the organization's stream could not be made in time") from error


async def find(database: Database, organization_id: str) -> OrganizationRow | None:
    with translated():
        async with database.sessions() as session:
            found: OrganizationRow | None = await session.scalar(_by_id(organization_id))
            return found


async def change(
    database: Database, organization_id: str, apply: Callable[[OrganizationRow], None]
) -> OrganizationRow | None:
    """Let `apply` change the locked row; None when there is none. What it raises leaves everything as it was."""
    with translated():
        async with database.sessions.begin() as session:
            # Rows that belong to the organization can be added meanwhile.
            found: OrganizationRow | None = await session.scalar(
                _by_id(organization_id).with_for_update(key_share=True)
            )
            if found is not None:
                apply(found)
                count_version(session, found)
            return found


def _by_id(organization_id: str) -> Select[OrganizationRow]:
    return select(OrganizationRow).where(OrganizationRow.id == organization_id)


async def page(
    database: Database, limit: int, after: str | None, *, epochs: list[int] | None = None
) -> list[Organization]:
    """By id; only those of `epochs`, when they are given."""
    query = select(OrganizationRow).order_by(OrganizationRow.id).limit(limit)
    if epochs is not None:
        query = query.where(OrganizationRow.epoch.in_(epochs))
    if after is not None:
        query = query.where(OrganizationRow.id > after)
    with translated():
        async with database.sessions() as session:
            return [_organization(row) for row in await session.scalars(query)]


def _organization(row: OrganizationRow) -> Organization:
    return Organization(row.id, row.epoch, row.name, row.partitions, to_microseconds(row.created_at))

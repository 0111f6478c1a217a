"""Many devices in one transaction, and those that register themselves by a key."""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from typing import Any, Final

import msgspec
from sqlalchemy import insert, or_, select, update
from sqlalchemy.dialects.postgresql import insert as postgres_insert
from sqlalchemy.sql import func

from iotplatform.adapters.postgres.connection import Database
from iotplatform.adapters.postgres.errors import conflict, missing, translated
from iotplatform.adapters.postgres.models import DeviceRow, DeviceTokenRow, ProvisioningKeyRow
from iotplatform.errors import Rejected

AT_ONCE: Final = 500


class DeviceToAdd(msgspec.Struct, frozen=True):
    """A device with its first token."""

    id: str
    name: str
    tags: list[str]
    metadata: dict[str, Any]
    token_id: str
    token_expires_at: dt.datetime


async def existing(database: Database, epoch: int, device_ids: Sequence[str]) -> set[str]:
    query = select(DeviceRow.id).where(DeviceRow.epoch == epoch, DeviceRow.id.in_(device_ids))
    with translated():
        async with database.sessions() as session:
            return set(await session.scalars(query))


async def add(database: Database, epoch: int, batch: Sequence[DeviceToAdd]) -> set[str]:
    """The ids of those that were made; what existed stays as it is.

    Raises:
        Rejected: the organization is gone; nothing was made.
        Unavailable: PostgreSQL is away.
    """
    made: set[str] = set()
    with translated(), missing("the organization is gone"):
        async with database.sessions.begin() as session:
            for start in range(0, len(batch), AT_ONCE):
                some = batch[start : start + AT_ONCE]
                rows = [
                    {"epoch": epoch, "id": new.id, "name": new.name, "tags": new.tags, "attributes": new.metadata}
                    for new in some
                ]
                statement = postgres_insert(DeviceRow).on_conflict_do_nothing().returning(DeviceRow.id)
                added = set(await session.scalars(statement, rows))
                if added:
                    tokens = [_token(epoch, new) for new in some if new.id in added]
                    await session.execute(insert(DeviceTokenRow), tokens)
                made |= added
    return made


async def use_key(database: Database, key_id: tuple[int, str], device: DeviceToAdd) -> DeviceRow:
    """A device by a provisioning key, whose use is counted with it.

    Raises:
        Rejected: `unauthenticated` when the key can't be used (any more), `conflict` when there is such a device.
        Unavailable: PostgreSQL is away.
    """
    epoch, identifier = key_id
    use = (
        update(ProvisioningKeyRow)
        .where(ProvisioningKeyRow.epoch == epoch, ProvisioningKeyRow.id == identifier, *_usable())
        .values(uses=ProvisioningKeyRow.uses + 1)
        .returning(ProvisioningKeyRow.id)
    )
    taken = conflict(f"the device {device.id!r} exists already", constraint="devices_pkey")
    with translated(), missing("the organization is gone"), taken:
        async with database.sessions.begin() as session:
            if await session.scalar(use) is None:
                raise Rejected("unauthenticated", "the provisioning key is not valid")
            row = DeviceRow(epoch=epoch, id=device.id, name=device.name, tags=device.tags, attributes=device.metadata)
            session.add(row)
            await session.flush()
            await session.refresh(row, ["created_at", "version"])
            await session.execute(insert(DeviceTokenRow), [_token(epoch, device)])
    return row


async def usable_key(database: Database, secret_hash: str) -> ProvisioningKeyRow | None:
    """The key with this hash, if it can be used now."""
    query = select(ProvisioningKeyRow).where(ProvisioningKeyRow.secret_hash == secret_hash, *_usable())
    with translated():
        async with database.sessions() as session:
            found: ProvisioningKeyRow | None = await session.scalar(query)
            return found


def _usable() -> tuple[Any, ...]:
    return (
        ProvisioningKeyRow.revoked_at.is_(None),
        or_(ProvisioningKeyRow.expires_at.is_(None), ProvisioningKeyRow.expires_at > func.now()),
        or_(ProvisioningKeyRow.max_uses.is_(None), ProvisioningKeyRow.uses < ProvisioningKeyRow.max_uses),
    )


def _token(epoch: int, device: DeviceToAdd) -> dict[str, Any]:
    return {
        "id": device.token_id,
        "epoch": epoch,
        "device_id": device.id,
        "kind": "jwt",
        "expires_at": device.token_expires_at,
    }

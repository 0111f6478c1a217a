"""Which device tokens live, and the public keys they are verified by. The tokens themselves are stored nowhere."""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping
from typing import Final

from sqlalchemy import delete, func, select, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.sql.dml import ReturningUpdate

from iotplatform.adapters.postgres.connection import Database
from iotplatform.adapters.postgres.errors import translated
from iotplatform.adapters.postgres.models import DeviceRow, DeviceTokenRow, SigningKeyRow
from iotplatform.errors import Rejected

MAX_LIVE_TOKENS: Final = 2


async def add(
    database: Database,
    epoch: int,
    device_id: str,
    token_id: str,
    expires_at: dt.datetime,
    *,
    secret_hash: bytes | None = None,
    beside: str | None = None,
) -> list[str]:
    """One more token of a device, or with `secret_hash` an opaque key. With `beside` only this other one stays alive.

    Returns the ids of those that were revoked.

    Raises:
        Rejected: there is no such device, or it has two live tokens.
        Unavailable: PostgreSQL is away.
    """
    device = select(DeviceRow.id).where(DeviceRow.epoch == epoch, DeviceRow.id == device_id)
    live = select(func.count()).where(
        DeviceTokenRow.epoch == epoch,
        DeviceTokenRow.device_id == device_id,
        DeviceTokenRow.revoked_at.is_(None),
        DeviceTokenRow.expires_at > func.now(),
    )
    with translated():
        async with database.sessions.begin() as session:
            # Locked, so that of two requests at once only one can add the second token.
            if await session.scalar(device.with_for_update()) is None:
                raise Rejected("not_found", f"there is no device {device_id!r}")
            ended: list[str] = []
            if beside is not None:
                ended = list(await session.scalars(_revoke_others(epoch, device_id, beside)))
            if (await session.scalar(live) or 0) >= MAX_LIVE_TOKENS:
                raise Rejected(
                    "conflict", f"the device has {MAX_LIVE_TOKENS} live tokens already: revoke one of them first"
                )
            kind = "jwt" if secret_hash is None else "key"
            session.add(
                DeviceTokenRow(
                    id=token_id,
                    epoch=epoch,
                    device_id=device_id,
                    kind=kind,
                    secret_hash=secret_hash,
                    expires_at=expires_at,
                )
            )
            return ended


def _revoke_others(epoch: int, device_id: str, kept: str) -> ReturningUpdate[str]:
    return (
        update(DeviceTokenRow)
        .where(
            DeviceTokenRow.epoch == epoch,
            DeviceTokenRow.device_id == device_id,
            DeviceTokenRow.id != kept,
            DeviceTokenRow.revoked_at.is_(None),
        )
        .values(revoked_at=func.now())
        .returning(DeviceTokenRow.id)
    )


async def revoke(database: Database, epoch: int, device_id: str, token_id: str) -> bool:
    """Whether the device has such a token; one that was revoked before stays so."""
    change = (
        update(DeviceTokenRow)
        .where(DeviceTokenRow.id == token_id, DeviceTokenRow.epoch == epoch, DeviceTokenRow.device_id == device_id)
        .values(revoked_at=func.coalesce(DeviceTokenRow.revoked_at, func.now()))
        .returning(DeviceTokenRow.id)
    )
    with translated():
        async with database.sessions.begin() as session:
            return await session.scalar(change) is not None


async def register_keys(database: Database, public_keys: Mapping[str, str]) -> None:
    """Let every process verify what is signed by these keys (kid → PEM). Keys of before stay: their tokens live on."""
    rows = [{"kid": kid, "public_pem": pem} for kid, pem in public_keys.items()]
    with translated():
        async with database.sessions.begin() as session:
            await session.execute(insert(SigningKeyRow).values(rows).on_conflict_do_nothing())


async def registered_keys(database: Database) -> list[SigningKeyRow]:
    """By age."""
    with translated():
        async with database.sessions() as session:
            return list(
                await session.scalars(select(SigningKeyRow).order_by(SigningKeyRow.created_at, SigningKeyRow.kid))
            )


async def remove_key(database: Database, kid: str) -> bool:
    """Let nothing be verified by this key any more; whether it was known."""
    statement = delete(SigningKeyRow).where(SigningKeyRow.kid == kid).returning(SigningKeyRow.kid)
    with translated():
        async with database.sessions.begin() as session:
            return await session.scalar(statement) is not None

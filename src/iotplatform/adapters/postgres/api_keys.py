"""API keys of programs. Of the keys themselves only hashes are stored."""

from __future__ import annotations

import datetime as dt

import msgspec
from sqlalchemy import Select, func, select, update

from iotplatform.adapters.postgres.connection import Database
from iotplatform.adapters.postgres.errors import missing, translated
from iotplatform.adapters.postgres.models import ApiKeyRow, OrganizationRow


class StoredKey(msgspec.Struct, frozen=True):
    """`epoch` and `organization_id` are None for a key of the platform."""

    id: str
    epoch: int | None
    organization_id: str | None
    name: str
    scopes: list[str]
    created_by: str
    created_at: dt.datetime
    expires_at: dt.datetime | None
    revoked_at: dt.datetime | None


async def add(
    database: Database,
    key_id: str,
    epoch: int | None,
    *,
    name: str,
    secret_hash: bytes,
    scopes: list[str],
    created_by: str,
    expires_at: dt.datetime | None,
) -> None:
    """Raises:
    Rejected: the organization is gone.
    Unavailable: PostgreSQL is away.
    """
    with translated(), missing("the organization is gone"):
        async with database.sessions.begin() as session:
            session.add(
                ApiKeyRow(
                    id=key_id,
                    epoch=epoch,
                    name=name,
                    secret_hash=secret_hash,
                    scopes=scopes,
                    created_by=created_by,
                    expires_at=expires_at,
                )
            )


async def find(database: Database, key_id: str) -> StoredKey | None:
    with translated():
        async with database.sessions() as session:
            found = (await session.execute(_select().where(ApiKeyRow.id == key_id))).one_or_none()
            return None if found is None else _stored(found[0], found[1])


async def page(
    database: Database, limit: int, after: str | None, *, epochs: list[int] | None, organization_id: str | None = None
) -> list[StoredKey]:
    """By id; only those of `epochs`, when they are given."""
    query = _select().order_by(ApiKeyRow.id).limit(limit)
    if after is not None:
        query = query.where(ApiKeyRow.id > after)
    if epochs is not None:
        query = query.where(ApiKeyRow.epoch.in_(epochs))
    if organization_id is not None:
        query = query.where(OrganizationRow.id == organization_id)
    with translated():
        async with database.sessions() as session:
            return [_stored(found[0], found[1]) for found in await session.execute(query)]


async def revoke(database: Database, key_id: str) -> None:
    """One that was revoked before stays so."""
    with translated():
        async with database.sessions.begin() as session:
            await session.execute(
                update(ApiKeyRow)
                .where(ApiKeyRow.id == key_id)
                .values(revoked_at=func.coalesce(ApiKeyRow.revoked_at, func.now()))
            )


def _select() -> Select[ApiKeyRow, str]:
    return select(ApiKeyRow, OrganizationRow.id).outerjoin(OrganizationRow, OrganizationRow.epoch == ApiKeyRow.epoch)


def _stored(row: ApiKeyRow, organization_id: str | None) -> StoredKey:
    return StoredKey(
        row.id,
        row.epoch,
        organization_id,
        row.name,
        row.scopes,
        row.created_by,
        row.created_at,
        row.expires_at,
        row.revoked_at,
    )

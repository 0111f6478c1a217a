"""The provisioning keys of an organization."""

from __future__ import annotations

from sqlalchemy import func, select, update

from iotplatform.adapters.postgres.connection import Database
from iotplatform.adapters.postgres.errors import missing, translated
from iotplatform.adapters.postgres.models import ProvisioningKeyRow


async def add(database: Database, row: ProvisioningKeyRow) -> ProvisioningKeyRow:
    """Raises:
    Rejected: the organization is gone.
    Unavailable: PostgreSQL is away.
    """
    with translated(), missing("the organization is gone"):
        async with database.sessions.begin() as session:
            session.add(row)
            await session.flush()
            await session.refresh(row, ["created_at", "uses"])
    return row


async def page(database: Database, epoch: int, limit: int, after: str | None) -> list[ProvisioningKeyRow]:
    """By id; those that were revoked too."""
    query = (
        select(ProvisioningKeyRow).where(ProvisioningKeyRow.epoch == epoch).order_by(ProvisioningKeyRow.id).limit(limit)
    )
    if after is not None:
        query = query.where(ProvisioningKeyRow.id > after)
    with translated():
        async with database.sessions() as session:
            return list(await session.scalars(query))


async def revoke(database: Database, epoch: int, key_id: str) -> bool:
    """Whether there is such a key; one that was revoked before stays so."""
    change = (
        update(ProvisioningKeyRow)
        .where(ProvisioningKeyRow.epoch == epoch, ProvisioningKeyRow.id == key_id)
        .values(revoked_at=func.coalesce(ProvisioningKeyRow.revoked_at, func.now()))
        .returning(ProvisioningKeyRow.id)
    )
    with translated():
        async with database.sessions.begin() as session:
            return await session.scalar(change) is not None

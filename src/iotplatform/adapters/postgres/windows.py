"""The maintenance windows of an organization."""

from __future__ import annotations

from typing import Any

from sqlalchemy import Boolean, delete, literal_column, select
from sqlalchemy.dialects.postgresql import insert

from iotplatform.adapters.postgres.connection import Database
from iotplatform.adapters.postgres.errors import conflict, missing, translated
from iotplatform.adapters.postgres.models import MaintenanceWindowRow
from iotplatform.domain.maintenance import MaintenanceWindow
from iotplatform.domain.timestamps import to_datetime


async def find(database: Database, epoch: int, window_id: str) -> MaintenanceWindowRow | None:
    with translated():
        async with database.sessions() as session:
            return await session.get(MaintenanceWindowRow, (epoch, window_id))


async def page(database: Database, epoch: int, limit: int, after: str | None) -> list[MaintenanceWindowRow]:
    """By id."""
    query = (
        select(MaintenanceWindowRow)
        .where(MaintenanceWindowRow.epoch == epoch)
        .order_by(MaintenanceWindowRow.id)
        .limit(limit)
    )
    if after is not None:
        query = query.where(MaintenanceWindowRow.id > after)
    with translated():
        async with database.sessions() as session:
            return list(await session.scalars(query))


async def add(database: Database, epoch: int, window: MaintenanceWindow, who: str) -> None:
    """A new window.

    Raises:
        Rejected: the id is taken, or the organization is gone.
        Unavailable: PostgreSQL is away.
    """
    taken = conflict(f"the maintenance window {window.id!r} exists already", constraint="maintenance_windows_pkey")
    with translated(), missing("the organization is gone"), taken:
        async with database.sessions.begin() as session:
            session.add(MaintenanceWindowRow(epoch=epoch, created_by=who, **_columns(window)))


async def put(database: Database, epoch: int, window: MaintenanceWindow, who: str) -> bool:
    """Make or replace a window; whether it was made."""
    columns = _columns(window)
    replaced = {name: value for name, value in columns.items() if name != "id"}
    statement = (
        insert(MaintenanceWindowRow)
        .values(epoch=epoch, created_by=who, **columns)
        .on_conflict_do_update(
            constraint="maintenance_windows_pkey",
            set_={**replaced, "version": MaintenanceWindowRow.version + 1},
        )
        # A row that no transaction has replaced or locked yet is a new one.
        .returning(literal_column("xmax = 0", Boolean()))
    )
    with translated(), missing("the organization is gone"):
        async with database.sessions.begin() as session:
            return bool(await session.scalar(statement))


async def remove(database: Database, epoch: int, window_id: str) -> bool:
    """Whether there was such a window."""
    statement = (
        delete(MaintenanceWindowRow)
        .where(MaintenanceWindowRow.epoch == epoch, MaintenanceWindowRow.id == window_id)
        .returning(MaintenanceWindowRow.id)
    )
    with translated():
        async with database.sessions.begin() as session:
            return await session.scalar(statement) is not None


def _columns(window: MaintenanceWindow) -> dict[str, Any]:
    return {
        "id": window.id,
        "name": window.name,
        "starts_at": to_datetime(window.starts_at),
        "ends_at": to_datetime(window.ends_at),
        "device_ids": list(window.devices.ids) if window.devices else [],
        "device_tags": list(window.devices.tags) if window.devices else [],
        "rule_ids": list(window.rules),
    }

"""The maintenance windows of an organization."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from sqlalchemy import select

from iotplatform.adapters.postgres.connection import Database
from iotplatform.adapters.postgres.errors import conflict, missing, translated
from iotplatform.adapters.postgres.models import MaintenanceWindowRow
from iotplatform.adapters.postgres.versions import count_version
from iotplatform.domain.maintenance import MaintenanceWindow
from iotplatform.domain.timestamps import to_datetime

Check = Callable[[int | None], None]


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


async def add(database: Database, epoch: int, window: MaintenanceWindow, who: str) -> MaintenanceWindowRow:
    """A new window.

    Raises:
        Rejected: the id is taken, or the organization is gone.
        Unavailable: PostgreSQL is away.
    """
    taken = conflict(f"the maintenance window {window.id!r} exists already", constraint="maintenance_windows_pkey")
    with translated(), missing("the organization is gone"), taken:
        async with database.sessions.begin() as session:
            row = MaintenanceWindowRow(epoch=epoch, created_by=who, **_columns(window))
            session.add(row)
            await session.flush()
            await session.refresh(row, ["version"])
            return row


async def put(
    database: Database, epoch: int, window: MaintenanceWindow, who: str, check: Check
) -> tuple[MaintenanceWindowRow, bool]:
    """Make or replace a window; whether it was made. `check` is told the version that is to be replaced, or None.

    Raises:
        Rejected: by `check`; the organization is gone; or somebody else has made the window in this moment.
        Unavailable: PostgreSQL is away.
    """
    with translated():
        async with database.sessions.begin() as session:
            row = await session.get(MaintenanceWindowRow, (epoch, window.id), with_for_update=True)
            check(row.version if row is not None else None)
            if row is not None:
                for name, value in _columns(window).items():
                    setattr(row, name, value)
                count_version(session, row)
                return row, False
    return await add(database, epoch, window, who), True


async def remove(database: Database, epoch: int, window_id: str, check: Check) -> bool:
    """Whether there was such a window."""
    with translated():
        async with database.sessions.begin() as session:
            row = await session.get(MaintenanceWindowRow, (epoch, window_id), with_for_update=True)
            if row is None:
                return False
            check(row.version)
            await session.delete(row)
            return True


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

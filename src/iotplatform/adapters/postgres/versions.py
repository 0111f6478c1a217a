"""How often a row was changed, which is half of its ETag."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from sqlalchemy import func
from sqlalchemy.ext.asyncio import AsyncSession

from iotplatform.adapters.postgres.connection import Database
from iotplatform.adapters.postgres.errors import conflict, missing, translated
from iotplatform.adapters.postgres.models import DeviceLimitsRow, DeviceRetentionRow, LimitsRow, RetentionRow

# Is told the version that there is, None when there is none, and raises what the caller is to be told.
Check = Callable[[int | None], None]
Row = TypeVar("Row", LimitsRow, DeviceLimitsRow, RetentionRow, DeviceRetentionRow)


def count_version(session: AsyncSession, row: Any) -> bool:
    """Whether the row was changed in this session; only then its version goes up, so that a retry changes nothing."""
    changed = session.is_modified(row)
    if changed:
        row.version += 1
        if hasattr(row, "updated_at"):
            row.updated_at = func.now()
    return changed


async def put_versioned(database: Database, wanted: Row, key: Any, check: Check, what: str) -> tuple[Row, bool]:
    """Make a row with a definition, or give the one that has this key that definition; whether it was made.

    Raises:
        Rejected: by `check`, what it belongs to is gone, or somebody else has made it in this moment.
        Unavailable: PostgreSQL is away.
    """
    taken = conflict(f"somebody else has set {what} in this moment")
    with translated(), missing(f"what {what} should be set for is gone"), taken:
        async with database.sessions.begin() as session:
            row = await session.get(type(wanted), key, with_for_update=True)
            check(None if row is None else row.version)
            if row is not None:
                row.definition = wanted.definition
                count_version(session, row)
                return row, False
            session.add(wanted)
            await session.flush()
            await session.refresh(wanted, ["version"])
            return wanted, True

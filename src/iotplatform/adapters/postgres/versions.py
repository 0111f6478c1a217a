"""How often a row was changed, which is half of its ETag."""

from __future__ import annotations

from typing import Any

from sqlalchemy import func
from sqlalchemy.ext.asyncio import AsyncSession


def count_version(session: AsyncSession, row: Any) -> bool:
    """Whether the row was changed in this session; only then its version goes up, so that a retry changes nothing."""
    changed = session.is_modified(row)
    if changed:
        row.version += 1
        if hasattr(row, "updated_at"):
            row.updated_at = func.now()
    return changed

"""Sessions of people: families of refresh tokens, of which each works once."""

from __future__ import annotations

import datetime as dt
from typing import Final, Literal

import msgspec
from sqlalchemy import ColumnElement, Update, delete, func, select, update
from sqlalchemy.ext.asyncio import AsyncSession

from iotplatform.adapters.postgres.connection import Database
from iotplatform.adapters.postgres.errors import missing, translated
from iotplatform.adapters.postgres.models import RefreshTokenRow, SessionRow, UserRow

LASTS: Final = dt.timedelta(days=30)
MOST_OF_A_USER: Final = 50


class Renewed(msgspec.Struct, frozen=True):
    """`reused`: the token had been used before, so the whole family has ended."""

    outcome: Literal["renewed", "unknown", "reused"]
    session_id: str = ""
    user_id: str = ""


async def begin(database: Database, session_id: str, user_id: str, token_hash: bytes) -> None:
    """A session with its first refresh token. What has expired goes; of many, the oldest.

    Raises:
        Rejected: the user is gone.
        Unavailable: PostgreSQL is away.
    """
    with translated(), missing("the user is gone"):
        async with database.sessions.begin() as session:
            newest = (
                select(SessionRow.id)
                .where(SessionRow.user_id == user_id, SessionRow.ended_at.is_(None), SessionRow.expires_at > func.now())
                .order_by(SessionRow.created_at.desc())
                .limit(MOST_OF_A_USER - 1)
            )
            await session.execute(delete(SessionRow).where(SessionRow.user_id == user_id, SessionRow.id.not_in(newest)))
            session.add(SessionRow(id=session_id, user_id=user_id, expires_at=dt.datetime.now(dt.UTC) + LASTS))
            await session.flush()
            session.add(RefreshTokenRow(hash=token_hash, session_id=session_id))


async def renew(database: Database, token_hash: bytes, next_hash: bytes) -> Renewed:
    """Exchange a refresh token for the next one of its family."""
    with translated():
        async with database.sessions.begin() as session:
            token = await session.get(RefreshTokenRow, token_hash)
            if token is None:
                return Renewed("unknown")
            # The family is locked, so that of two requests with one token the second one is a reuse.
            family = await session.get(SessionRow, token.session_id, with_for_update=True)
            await session.refresh(token)
            if family is None or not await _is_alive(session, family):
                return Renewed("unknown")
            if token.used_at is not None:
                await session.execute(_end(SessionRow.id == family.id))
                return Renewed("reused", family.id, family.user_id)
            token.used_at = dt.datetime.now(dt.UTC)
            session.add(RefreshTokenRow(hash=next_hash, session_id=family.id))
            return Renewed("renewed", family.id, family.user_id)


async def end(database: Database, session_id: str) -> None:
    """Nothing of it opens anything any more."""
    with translated():
        async with database.sessions.begin() as session:
            await session.execute(_end(SessionRow.id == session_id))


async def end_all(database: Database, user_id: str) -> list[str]:
    """Those of a person; their ids."""
    with translated():
        async with database.sessions.begin() as session:
            return list(await session.scalars(_end(SessionRow.user_id == user_id).returning(SessionRow.id)))


async def end_of_token(database: Database, token_hash: bytes) -> str | None:
    """End the family of a refresh token; its id."""
    family = select(RefreshTokenRow.session_id).where(RefreshTokenRow.hash == token_hash).scalar_subquery()
    with translated():
        async with database.sessions.begin() as session:
            return await session.scalar(_end(SessionRow.id == family).returning(SessionRow.id))


def _end(which: ColumnElement[bool]) -> Update:
    return update(SessionRow).where(which, SessionRow.ended_at.is_(None)).values(ended_at=func.now())


async def _is_alive(session: AsyncSession, family: SessionRow) -> bool:
    user = await session.get(UserRow, family.user_id)
    return (
        family.ended_at is None
        and family.expires_at > dt.datetime.now(dt.UTC)
        and user is not None
        and user.disabled_at is None
    )

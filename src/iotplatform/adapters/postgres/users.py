"""People, and what they may do where."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Mapping
from typing import Any, Final

import msgspec
from sqlalchemy import func, insert, select, text
from sqlalchemy.ext.asyncio import AsyncSession

from iotplatform.adapters.postgres.connection import Database
from iotplatform.adapters.postgres.errors import conflict, missing, translated
from iotplatform.adapters.postgres.models import OrganizationRow, UserRoleRow, UserRow
from iotplatform.domain.principal import RoleName
from iotplatform.errors import Rejected

# Whoever makes or unmakes a platform administrator holds this lock, so that the last one can't go twice at once.
_ADMINISTRATORS: Final = text("SELECT pg_advisory_xact_lock(hashtext('iotplatform.administrators'))")


class User(msgspec.Struct, frozen=True):
    """`roles` by organization id."""

    id: str
    email: str
    name: str
    platform_admin: bool
    disabled: bool
    created_at: dt.datetime
    roles: Mapping[str, RoleName]
    version: int


class Login(msgspec.Struct, frozen=True):
    """What a password is checked against."""

    user_id: str
    email: str
    password_hash: str


async def add(
    database: Database,
    user_id: str,
    *,
    email: str,
    name: str,
    password_hash: str,
    platform_admin: bool,
    roles: Mapping[int, RoleName],
) -> User:
    """A new person; `roles` by epoch.

    Raises:
        Rejected: the address is taken, or an organization is gone.
        Unavailable: PostgreSQL is away.
    """
    with translated(), _taken(email), missing("an organization is gone"):
        async with database.sessions.begin() as session:
            await _insert(session, user_id, email, name, password_hash, platform_admin=platform_admin)
            await _set_roles(session, user_id, roles)
            return await _one(session, user_id)


async def add_first(database: Database, user_id: str, *, email: str, name: str, password_hash: str) -> User | None:
    """The first platform administrator; None when there is one already."""
    with translated(), _taken(email):
        async with database.sessions.begin() as session:
            await session.execute(_ADMINISTRATORS)
            if await _administrators(session):
                return None
            await _insert(session, user_id, email, name, password_hash, platform_admin=True)
            return await _one(session, user_id)


async def any_administrator(database: Database) -> bool:
    """Whether there is somebody who can let others in."""
    with translated():
        async with database.sessions() as session:
            return await _administrators(session) > 0


async def find(database: Database, user_id: str) -> User | None:
    with translated():
        async with database.sessions() as session:
            row = await session.get(UserRow, user_id)
            return None if row is None else await _user(session, row)


async def login_of(database: Database, email: str) -> Login | None:
    """One query, whether there is such a person or not; a person who may not come in is none."""
    query = select(UserRow.id, UserRow.email, UserRow.password_hash).where(
        UserRow.email == email, UserRow.disabled_at.is_(None)
    )
    with translated():
        async with database.sessions() as session:
            found = (await session.execute(query)).one_or_none()
            return None if found is None else Login(found[0], found[1], found[2])


async def page(database: Database, limit: int, after: str | None, *, epoch: int | None = None) -> list[User]:
    """By id; with `epoch` those who have a role in that organization."""
    query = select(UserRow).order_by(UserRow.id).limit(limit)
    if after is not None:
        query = query.where(UserRow.id > after)
    if epoch is not None:
        query = query.join(UserRoleRow, UserRoleRow.user_id == UserRow.id).where(UserRoleRow.epoch == epoch)
    with translated():
        async with database.sessions() as session:
            # One state of things: whoever is found with a role is shown with it.
            await session.connection(execution_options={"isolation_level": "REPEATABLE READ"})
            return [await _user(session, row) for row in await session.scalars(query)]


async def change(
    database: Database,
    user_id: str,
    values: Mapping[str, Any],
    roles: Mapping[int, RoleName] | None,
    check: Callable[[int], None],
) -> User | None:
    """Set columns, and replace all roles unless None; None when there is no such user. `check` sees the version.

    Raises:
        Rejected: the address is taken, or nobody would be left to administer the platform.
        Unavailable: PostgreSQL is away.
    """
    with translated(), _taken(str(values.get("email"))), missing("an organization is gone"):
        async with database.sessions.begin() as session:
            await session.execute(_ADMINISTRATORS)
            row = await session.get(UserRow, user_id, with_for_update=True)
            if row is None:
                return None
            check(row.version)
            was_one = row.platform_admin and row.disabled_at is None
            for name, value in values.items():
                setattr(row, name, value)
            row.version += 1
            if roles is not None:
                await _replace_roles(session, user_id, roles)
            await session.flush()
            if was_one:
                await _keep_one(session)
            return await _user(session, row)


async def set_password_hash(database: Database, user_id: str, password_hash: str) -> None:
    with translated():
        async with database.sessions.begin() as session:
            row = await session.get(UserRow, user_id, with_for_update=True)
            if row is not None:
                row.password_hash = password_hash


async def remove(database: Database, user_id: str, check: Callable[[int], None]) -> bool:
    """False when there is none. `check` sees the version.

    Raises:
        Rejected: nobody would be left to administer the platform.
        Unavailable: PostgreSQL is away.
    """
    with translated():
        async with database.sessions.begin() as session:
            await session.execute(_ADMINISTRATORS)
            row = await session.get(UserRow, user_id, with_for_update=True)
            if row is None:
                return False
            check(row.version)
            was_one = row.platform_admin and row.disabled_at is None
            await session.delete(row)
            await session.flush()
            if was_one:
                await _keep_one(session)
            return True


def _taken(email: str) -> Any:
    return conflict(f"there is a user {email} already", constraint="users_email_key")


async def _insert(
    session: AsyncSession, user_id: str, email: str, name: str, password_hash: str, *, platform_admin: bool
) -> None:
    session.add(UserRow(id=user_id, email=email, name=name, password_hash=password_hash, platform_admin=platform_admin))
    await session.flush()


async def _set_roles(session: AsyncSession, user_id: str, roles: Mapping[int, RoleName]) -> None:
    if roles:
        rows = [{"user_id": user_id, "epoch": epoch, "role": role} for epoch, role in roles.items()]
        await session.execute(insert(UserRoleRow), rows)


async def _replace_roles(session: AsyncSession, user_id: str, roles: Mapping[int, RoleName]) -> None:
    """Only those that differ: one that stays is no new one, for quotas and for the audit."""
    before = {
        row.epoch: row for row in await session.scalars(select(UserRoleRow).where(UserRoleRow.user_id == user_id))
    }
    for epoch, row in before.items():
        if epoch in roles:
            row.role = roles[epoch]
        else:
            await session.delete(row)
    await session.flush()
    await _set_roles(session, user_id, {epoch: role for epoch, role in roles.items() if epoch not in before})


async def _administrators(session: AsyncSession) -> int:
    query = select(func.count()).where(UserRow.platform_admin, UserRow.disabled_at.is_(None))
    return await session.scalar(query) or 0


async def _keep_one(session: AsyncSession) -> None:
    if not await _administrators(session):
        raise Rejected("conflict", "nobody would be left to administer the platform")


async def _one(session: AsyncSession, user_id: str) -> User:
    row = await session.get_one(UserRow, user_id)
    await session.refresh(row)
    return await _user(session, row)


async def _user(session: AsyncSession, row: UserRow) -> User:
    query = (
        select(OrganizationRow.id, UserRoleRow.role)
        .join(OrganizationRow, OrganizationRow.epoch == UserRoleRow.epoch)
        .where(UserRoleRow.user_id == row.id)
        .order_by(OrganizationRow.id)
    )
    roles: dict[str, Any] = {found[0]: found[1] for found in await session.execute(query)}
    return User(
        row.id,
        row.email,
        row.name,
        row.platform_admin,
        row.disabled_at is not None,
        row.created_at,
        roles,
        row.version,
    )

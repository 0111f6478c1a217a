"""The people of one organization, as its own administrators change them: a role here, and nothing anywhere else."""

from __future__ import annotations

from collections.abc import Callable

import msgspec
from sqlalchemy import delete, func, select
from sqlalchemy.ext.asyncio import AsyncSession

from iotplatform.adapters.postgres.connection import Database
from iotplatform.adapters.postgres.errors import missing, translated
from iotplatform.adapters.postgres.models import UserRoleRow, UserRow
from iotplatform.domain.principal import RoleName
from iotplatform.errors import Rejected


class Member(msgspec.Struct, frozen=True):
    id: str
    email: str
    name: str
    role: RoleName


Check = Callable[[RoleName], None]


async def find(database: Database, epoch: int, user_id: str) -> Member | None:
    with translated():
        async with database.sessions() as session:
            found = await _find(session, epoch, user_id)
            return None if found is None else _member(*found)


async def add(
    database: Database, epoch: int, user_id: str, *, email: str, name: str, password_hash: str, role: RoleName
) -> Member:
    """Give a person an account and a role.

    One that is there already gets no role by this: who has made it may know its password, and would come in with it.

    Raises:
        Rejected: there is an account for this address, or the organization is gone, or has as many as it may.
        Unavailable: PostgreSQL is away.
    """
    with translated(), missing("the organization is gone"):
        async with database.sessions.begin() as session:
            # Of two at once with the same address the second finds what the first has made.
            await session.execute(select(func.pg_advisory_xact_lock(func.hashtext(f"iotplatform.user {email}"))))
            if await session.scalar(select(UserRow.id).where(UserRow.email == email)) is not None:
                raise Rejected("conflict", f"{email} has an account: a platform administrator can give it a role here")
            row = UserRow(id=user_id, email=email, name=name, password_hash=password_hash, platform_admin=False)
            session.add(row)
            await session.flush()
            made = UserRoleRow(user_id=row.id, epoch=epoch, role=role)
            session.add(made)
            await session.flush()
            return _member(row, made)


async def change(database: Database, epoch: int, user_id: str, role: RoleName, check: Check) -> Member | None:
    """None when this person has no role here. `check` is told the one there was."""
    with translated():
        async with database.sessions.begin() as session:
            found = await _find(session, epoch, user_id, locked=True)
            if found is None:
                return None
            check(found[1].role)  # type: ignore[arg-type]
            found[1].role = role
            await session.flush()
            return _member(*found)


async def remove(database: Database, epoch: int, user_id: str, check: Check) -> bool:
    """Take the role away, and with the last one of a person the account, unless it administers the platform.

    False when this person has no role here.
    """
    with translated():
        async with database.sessions.begin() as session:
            # The account first: who removes the same person elsewhere comes after us, and finds no other role.
            account = await session.get(UserRow, user_id, with_for_update=True)
            found = await _find(session, epoch, user_id, locked=True)
            if account is None or found is None:
                return False
            check(found[1].role)  # type: ignore[arg-type]
            await session.delete(found[1])
            await session.flush()
            left = await session.scalar(select(func.count()).where(UserRoleRow.user_id == user_id))
            if not left and not account.platform_admin:
                await session.execute(delete(UserRow).where(UserRow.id == user_id))
            return True


async def _find(
    session: AsyncSession, epoch: int, user_id: str, *, locked: bool = False
) -> tuple[UserRow, UserRoleRow] | None:
    query = (
        select(UserRow, UserRoleRow)
        .join(UserRoleRow, UserRoleRow.user_id == UserRow.id)
        .where(UserRoleRow.epoch == epoch, UserRow.id == user_id)
    )
    found = (await session.execute(query.with_for_update() if locked else query)).one_or_none()
    return None if found is None else (found[0], found[1])


def _member(user: UserRow, role: UserRoleRow) -> Member:
    return Member(user.id, user.email, user.name, role.role)  # type: ignore[arg-type]

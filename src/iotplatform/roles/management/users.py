"""`/users`: people and their roles in all organizations."""

from __future__ import annotations

import datetime as dt
import uuid
from typing import Any

import msgspec
from litestar import Response, delete, get, patch, post
from litestar.di import NamedDependency
from litestar.params import FromPath, JSONBody

from iotplatform.adapters.postgres import users
from iotplatform.adapters.postgres.changes import Change
from iotplatform.adapters.postgres.users import User
from iotplatform.domain.identifiers import identifier_fault
from iotplatform.domain.people import normal_email
from iotplatform.domain.principal import RoleName
from iotplatform.domain.timestamps import format_timestamp, to_microseconds
from iotplatform.errors import Fault, Rejected
from iotplatform.roles.management.access import PLATFORM
from iotplatform.roles.management.context import ManagementContext, known_form, not_found
from iotplatform.roles.management.entrance import check_person
from iotplatform.roles.management.etags import IfMatch, etag, precondition
from iotplatform.roles.management.fields import Body, Name
from iotplatform.roles.management.paging import BY_ID, DEFAULT_LIMIT, Cursor, Limit, Page, decode_cursor, page
from iotplatform.roles.management.sessions import Email, Password, end_sessions


class NewUser(Body, frozen=True, kw_only=True):
    """`roles` by organization."""

    email: Email
    password: Password
    name: Name | None = None
    platform_admin: bool = False
    roles: dict[str, RoleName] = msgspec.field(default_factory=dict)


class UserPatch(Body, frozen=True, kw_only=True):
    """`roles` are replaced as a whole. A new password, or `disabled`, ends the person's logins."""

    email: Email | msgspec.UnsetType = msgspec.UNSET
    password: Password | msgspec.UnsetType = msgspec.UNSET
    name: Name | msgspec.UnsetType = msgspec.UNSET
    platform_admin: bool | msgspec.UnsetType = msgspec.UNSET
    disabled: bool | msgspec.UnsetType = msgspec.UNSET
    roles: dict[str, RoleName] | msgspec.UnsetType = msgspec.UNSET


class UserAnswer(msgspec.Struct, frozen=True):
    id: str
    email: str
    name: str
    platform_admin: bool
    disabled: bool
    roles: dict[str, RoleName]
    created_at: str


@post("/users", opt=PLATFORM)
async def create_user(data: JSONBody[NewUser], context: NamedDependency[ManagementContext]) -> Response[UserAnswer]:
    email = normal_email(data.email)
    check_person(email, data.password)
    made = await users.add(
        context.database,
        str(uuid.uuid4()),
        email=email,
        name=data.name or email.partition("@")[0],
        password_hash=await context.entrance.passwords.hash(data.password),
        platform_admin=data.platform_admin,
        roles=await _by_epoch(context, data.roles),
    )
    return _shown(made, 201)


@get("/users", opt=PLATFORM)
async def list_users(
    context: NamedDependency[ManagementContext], limit: Limit = DEFAULT_LIMIT, cursor: Cursor = None
) -> Page[UserAnswer]:
    found = await users.page(context.database, limit + 1, decode_cursor(cursor, BY_ID))
    return page(found, limit, _answer, lambda last: last.id)


@get("/users/{user:str}", opt=PLATFORM)
async def read_user(user: FromPath[str], context: NamedDependency[ManagementContext]) -> Response[UserAnswer]:
    found = await users.find(context.database, known_form("user", user))
    if found is None:
        raise not_found("user", user)
    return _shown(found, 200)


@patch("/users/{user:str}", opt=PLATFORM)
async def change_user(
    user: FromPath[str],
    data: JSONBody[UserPatch],
    context: NamedDependency[ManagementContext],
    if_match: IfMatch = None,
) -> Response[UserAnswer]:
    expected = precondition(if_match)
    before = await users.find(context.database, known_form("user", user))
    if before is None:
        raise not_found("user", user)
    email = before.email if isinstance(data.email, msgspec.UnsetType) else normal_email(data.email)
    check_person(email, None if isinstance(data.password, msgspec.UnsetType) else data.password)
    values: dict[str, Any] = {"email": email}
    if not isinstance(data.name, msgspec.UnsetType):
        values["name"] = data.name
    if not isinstance(data.platform_admin, msgspec.UnsetType):
        values["platform_admin"] = data.platform_admin
    if not isinstance(data.disabled, msgspec.UnsetType):
        values["disabled_at"] = dt.datetime.now(dt.UTC) if data.disabled else None
    roles = None if isinstance(data.roles, msgspec.UnsetType) else await _by_epoch(context, data.roles)
    if not isinstance(data.password, msgspec.UnsetType):
        values["password_hash"] = await context.entrance.passwords.hash(data.password)
    changed = await users.change(context.database, user, values, roles, expected.check)
    if changed is None:
        raise not_found("user", user)
    await context.directory.apply([Change("user", None, user)])
    if "password_hash" in values or changed.disabled:
        await end_sessions(context, user)
    return _shown(changed, 200)


@delete("/users/{user:str}", opt=PLATFORM)
async def delete_user(
    user: FromPath[str], context: NamedDependency[ManagementContext], if_match: IfMatch = None
) -> None:
    expected = precondition(if_match)
    if not await users.remove(context.database, known_form("user", user), expected.check):
        raise not_found("user", user)
    # Other processes hear of it by the change feed; this one need not wait for that.
    await context.directory.apply([Change("user", None, user)])


async def _by_epoch(context: ManagementContext, roles: dict[str, RoleName]) -> dict[int, RoleName]:
    found: dict[int, RoleName] = {}
    faults = []
    for organization_id, role in roles.items():
        known = None if identifier_fault(organization_id) else await context.directory.organization(organization_id)
        if known is None:
            faults.append(Fault("names an organization that there is not", field=f"roles.{organization_id}"[:80]))
        else:
            found[known.epoch] = role
    if faults:
        raise Rejected("invalid", "the body is not valid", faults=tuple(faults))
    return found


def _shown(user: User, status: int) -> Response[UserAnswer]:
    headers = {"ETag": etag(user.version)}
    if status == 201:
        headers["Location"] = f"/users/{user.id}"
    return Response(_answer(user), status_code=status, headers=headers)


def _answer(user: User) -> UserAnswer:
    return UserAnswer(
        id=user.id,
        email=user.email,
        name=user.name,
        platform_admin=user.platform_admin,
        disabled=user.disabled,
        roles=dict(user.roles),
        created_at=format_timestamp(to_microseconds(user.created_at)),
    )

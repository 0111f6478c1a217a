"""`/organizations/{org}/users`: its people, for those who administer it. Accounts as such are at `/users`."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from typing import Final

from litestar import Response, delete, get, post, put
from litestar.di import NamedDependency
from litestar.params import FromPath, JSONBody

from iotplatform.adapters.postgres import organization_users, users
from iotplatform.adapters.postgres.changes import Change
from iotplatform.adapters.postgres.organization_users import Member
from iotplatform.domain.people import normal_email
from iotplatform.domain.principal import ROLES, Principal, RoleName
from iotplatform.errors import Rejected
from iotplatform.roles.management.access import ADMINISTER
from iotplatform.roles.management.context import ManagementContext, known_form, not_found
from iotplatform.roles.management.entrance import check_person
from iotplatform.roles.management.etags import IfMatch, etag, precondition
from iotplatform.roles.management.fields import Body, Name
from iotplatform.roles.management.paging import BY_ID, DEFAULT_LIMIT, Cursor, Limit, Page, decode_cursor, page
from iotplatform.roles.management.sessions import Email, Password

# A member is nothing but a role here, so that is what its ETag tells apart.
_NUMBERS: Final = {role: number for number, role in enumerate(ROLES, 1)}


class NewMember(Body, frozen=True, kw_only=True):
    email: Email
    password: Password
    role: RoleName
    name: Name | None = None


class NewRole(Body, frozen=True):
    role: RoleName


@get("/organizations/{org:str}/users", opt=ADMINISTER)
async def list_members(
    org: FromPath[str],
    context: NamedDependency[ManagementContext],
    limit: Limit = DEFAULT_LIMIT,
    cursor: Cursor = None,
) -> Page[Member]:
    after = decode_cursor(cursor, BY_ID)
    organization = await context.organization(org)
    found = await users.page(context.database, limit + 1, after, epoch=organization.epoch)
    return page(
        found,
        limit,
        lambda user: Member(user.id, user.email, user.name, user.roles[organization.id]),
        lambda last: last.id,
    )


@post("/organizations/{org:str}/users", opt=ADMINISTER)
async def add_member(
    org: FromPath[str],
    data: JSONBody[NewMember],
    context: NamedDependency[ManagementContext],
    principal: NamedDependency[Principal],
) -> Response[Member]:
    """Give somebody an account and a role; 409 where there is an account for this address."""
    email = normal_email(data.email)
    check_person(email, data.password)
    organization = await context.organization(org)
    _check_role(principal, organization.epoch, data.role)
    made = await organization_users.add(
        context.database,
        organization.epoch,
        str(uuid.uuid4()),
        email=email,
        name=data.name or email.partition("@")[0],
        # Also where it is not needed: how long an answer takes tells nothing of other organizations.
        password_hash=await context.entrance.passwords.hash(data.password),
        role=data.role,
    )
    await _tell(context, made.id)
    location = f"/organizations/{organization.id}/users/{made.id}"
    return Response(made, status_code=201, headers={"Location": location, "ETag": etag(_NUMBERS[made.role])})


@get("/organizations/{org:str}/users/{user:str}", opt=ADMINISTER)
async def read_member(
    org: FromPath[str], user: FromPath[str], context: NamedDependency[ManagementContext]
) -> Response[Member]:
    organization = await context.organization(org)
    return _shown(user, await organization_users.find(context.database, organization.epoch, known_form("user", user)))


@put("/organizations/{org:str}/users/{user:str}", opt=ADMINISTER)
async def change_member(
    org: FromPath[str],
    user: FromPath[str],
    data: JSONBody[NewRole],
    context: NamedDependency[ManagementContext],
    principal: NamedDependency[Principal],
    if_match: IfMatch = None,
) -> Response[Member]:
    """Another role for who has one here."""
    check = _check(if_match)
    organization = await context.organization(org)
    known_form("user", user)
    _check_role(principal, organization.epoch, data.role)
    changed = await organization_users.change(context.database, organization.epoch, user, data.role, check)
    await _tell(context, user)
    return _shown(user, changed)


@delete("/organizations/{org:str}/users/{user:str}", opt=ADMINISTER)
async def remove_member(
    org: FromPath[str],
    user: FromPath[str],
    context: NamedDependency[ManagementContext],
    if_match: IfMatch = None,
) -> None:
    """The person has no role here any more. An account that has none anywhere is deleted."""
    check = _check(if_match)
    organization = await context.organization(org)
    known_form("user", user)
    if not await organization_users.remove(context.database, organization.epoch, user, check):
        raise not_found("user", user)
    await _tell(context, user)


def _check_role(principal: Principal, epoch: int, role: RoleName) -> None:
    """Nobody hands on more than they have: a key with the one scope `administer` makes no person who reads.

    Raises:
        Rejected: the role may do what the caller may not.
    """
    if not ROLES[role] <= principal.permissions(epoch):
        raise Rejected("forbidden", f"the role {role} may do more than this credential")


async def _tell(context: ManagementContext, user_id: str) -> None:
    # Other processes hear of it by the change feed; this one need not wait for that.
    await context.directory.apply([Change("user", None, user_id)])


def _check(if_match: str | None) -> Callable[[RoleName], None]:
    expected = precondition(if_match)
    return lambda role: expected.check(_NUMBERS[role])


def _shown(user: str, member: Member | None) -> Response[Member]:
    if member is None:
        raise not_found("user", user)
    return Response(member, status_code=200, headers={"ETag": etag(_NUMBERS[member.role])})

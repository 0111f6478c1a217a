"""`/auth/login`, `/auth/refresh`, `/auth/logout`, `/setup`, and `/me`."""

from __future__ import annotations

import secrets
import uuid
from typing import Annotated, Any, Final

import msgspec
from litestar import Request, Response, get, post
from litestar.di import NamedDependency
from litestar.params import JSONBody

from iotplatform.adapters.postgres import sessions, users
from iotplatform.adapters.postgres.changes import Change
from iotplatform.adapters.tokens.user_tokens import VALID_S
from iotplatform.domain.credentials import REFRESH_TOKEN_PREFIX, secret_hash
from iotplatform.domain.people import MAX_PASSWORD_BYTES, email_fault, normal_email, password_fault
from iotplatform.domain.principal import Permission, Principal
from iotplatform.errors import Fault, Rejected
from iotplatform.roles.management.access import PUBLIC, SIGNED_IN, forbidden, known_to
from iotplatform.roles.management.context import ManagementContext
from iotplatform.roles.management.entrance import check_person
from iotplatform.roles.management.fields import Body, Name

# What is longer is nobody's password or token, and need not be hashed to know that.
Password = Annotated[str, msgspec.Meta(min_length=1, max_length=MAX_PASSWORD_BYTES)]
Email = Annotated[str, msgspec.Meta(min_length=1, max_length=320)]
Secret = Annotated[str, msgspec.Meta(min_length=1, max_length=128)]

_WRONG: Final = "the e-mail address or the password is wrong"


class Login(Body, frozen=True):
    email: Email
    password: Password


class Refresh(Body, frozen=True):
    refresh_token: Secret


class Setup(Body, frozen=True, kw_only=True):
    token: Secret
    email: Email
    password: Password
    name: Name | None = None


class NewPassword(Body, frozen=True):
    current_password: Password
    new_password: Password


class TokenPair(msgspec.Struct, frozen=True):
    """`access_token` goes into `Authorization: Bearer`; the refresh token works once, for the next pair."""

    access_token: str
    refresh_token: str
    expires_in: int
    token_type: str = "Bearer"  # noqa: S105


class Rights(msgspec.Struct, frozen=True):
    organization_id: str
    permissions: list[Permission]


class Me(msgspec.Struct, frozen=True):
    """`everywhere`: what holds in every organization, and `platform` for the platform itself."""

    kind: str
    id: str
    name: str
    everywhere: list[Permission]
    organizations: list[Rights]


class Administrator(msgspec.Struct, frozen=True):
    id: str
    email: str
    name: str


@post("/auth/login", status_code=200, opt=PUBLIC)
async def log_in(
    data: JSONBody[Login], request: Request[Any, Any, Any], context: NamedDependency[ManagementContext]
) -> TokenPair:
    """Who is unknown is refused like who has the wrong password, and after the same time."""
    email, address = normal_email(data.email), _address(request)
    entrance = context.entrance
    await entrance.guesses.count(email, address)
    login = None if email_fault(email) else await users.login_of(context.database, email)
    if not await entrance.passwords.verify(login.password_hash if login else None, data.password) or login is None:
        raise Rejected("unauthenticated", _WRONG)
    await entrance.guesses.succeeded(email, address)
    if entrance.passwords.is_outdated(login.password_hash):
        renewed = await entrance.passwords.hash(data.password)
        await users.set_password_hash(context.database, login.user_id, renewed)
    return await _begin(context, login.user_id)


@post("/auth/refresh", status_code=200, opt=PUBLIC)
async def refresh(
    data: JSONBody[Refresh], request: Request[Any, Any, Any], context: NamedDependency[ManagementContext]
) -> TokenPair:
    """The next pair of tokens. A token that comes a second time was stolen: everything of its login ends."""
    return await known_to(context.entrance.strangers, request, data.refresh_token, _renew(data, context))


async def _renew(data: Refresh, context: ManagementContext) -> TokenPair:
    following = _new_refresh_token()
    done = await sessions.renew(context.database, secret_hash(data.refresh_token), secret_hash(following))
    if done.outcome == "reused":
        await _forget_session(context, done.session_id)
    if done.outcome != "renewed":
        raise Rejected("unauthenticated", "the refresh token is not valid: log in again")
    return TokenPair(context.entrance.user_tokens.issue(done.user_id, done.session_id), following, VALID_S)


@post("/auth/logout", status_code=204, opt=SIGNED_IN)
async def log_out(context: NamedDependency[ManagementContext], principal: NamedDependency[Principal]) -> None:
    """End the login that the access token belongs to."""
    if principal.session_id is None:
        raise forbidden()
    await sessions.end(context.database, principal.session_id)
    await _forget_session(context, principal.session_id)


@post("/setup", opt=PUBLIC)
async def set_up(
    data: JSONBody[Setup], request: Request[Any, Any, Any], context: NamedDependency[ManagementContext]
) -> Response[Administrator]:
    """The first platform administrator, by the token that the first start in required mode printed."""
    entrance = context.entrance
    await entrance.guesses.count("setup", _address(request))
    if not entrance.is_setup_token(data.token):
        raise Rejected("unauthenticated", "this is not the setup token that the last start printed")
    email = normal_email(data.email)
    check_person(email, data.password)
    made = await users.add_first(
        context.database,
        str(uuid.uuid4()),
        email=email,
        name=data.name or email.partition("@")[0],
        password_hash=await entrance.passwords.hash(data.password),
    )
    if made is None:
        raise Rejected("conflict", "there is an administrator already: the setup is over")
    answer = Administrator(made.id, made.email, made.name)
    return Response(answer, status_code=201, headers={"Location": f"/users/{made.id}"})


@get("/me", opt=SIGNED_IN)
async def read_me(context: NamedDependency[ManagementContext], principal: NamedDependency[Principal]) -> Me:
    known = sorted(context.directory.organizations(), key=lambda organization: organization.id)
    rights = [
        Rights(organization.id, sorted(principal.within[organization.epoch]))
        for organization in known
        if organization.epoch in principal.within
    ]
    return Me(principal.kind, principal.id, principal.name, sorted(principal.everywhere), rights)


@post("/me/password", status_code=200, opt=SIGNED_IN)
async def change_password(
    data: JSONBody[NewPassword],
    request: Request[Any, Any, Any],
    context: NamedDependency[ManagementContext],
    principal: NamedDependency[Principal],
) -> TokenPair:
    """All logins end, this one too; the answer begins a new one."""
    if principal.kind != "user":
        raise forbidden()
    entrance = context.entrance
    email, address = principal.name, _address(request)
    if fault := password_fault(data.new_password, email):
        raise Rejected("invalid", "the body is not valid", faults=(Fault(fault, field="new_password"),))
    await entrance.guesses.count(email, address)
    login = await users.login_of(context.database, email)
    if login is None or not await entrance.passwords.verify(login.password_hash, data.current_password):
        raise Rejected("unauthenticated", _WRONG)
    await entrance.guesses.succeeded(email, address)
    await users.set_password_hash(context.database, login.user_id, await entrance.passwords.hash(data.new_password))
    await end_sessions(context, login.user_id)
    return await _begin(context, login.user_id)


async def end_sessions(context: ManagementContext, user_id: str) -> None:
    """All of a person, here at once and everywhere within moments."""
    ended = await sessions.end_all(context.database, user_id)
    await context.directory.apply([Change("session", None, session_id) for session_id in ended])


async def _forget_session(context: ManagementContext, session_id: str) -> None:
    # Other processes hear of it by the change feed; this one need not wait for that.
    await context.directory.apply([Change("session", None, session_id)])


async def _begin(context: ManagementContext, user_id: str) -> TokenPair:
    session_id, token = str(uuid.uuid4()), _new_refresh_token()
    await sessions.begin(context.database, session_id, user_id, secret_hash(token))
    return TokenPair(context.entrance.user_tokens.issue(user_id, session_id), token, VALID_S)


def _new_refresh_token() -> str:
    return REFRESH_TOKEN_PREFIX + secrets.token_urlsafe(32)


def _address(request: Request[Any, Any, Any]) -> str:
    """Whom the socket is connected to, or whom a proxy has it from that the settings trust (`app.http.forwarding`)."""
    return request.client.host if request.client else ""

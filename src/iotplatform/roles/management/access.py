"""What a route needs, declared on the route, and the guard that holds it: `@get(path, opt=READ)`.

A route without a declaration is refused when the application is made, and docs/access.md has a row for each.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Coroutine, Iterable, Mapping, Sequence
from typing import Any, Final, Literal, TypeAlias, TypeVar

import msgspec
from litestar import Request
from litestar.connection import ASGIConnection
from litestar.exceptions import HTTPException
from litestar.handlers import BaseRouteHandler, HTTPRouteHandler

from iotplatform.adapters.postgres.directory import Directory
from iotplatform.adapters.tokens.authenticator import Authenticator
from iotplatform.domain.organization import Organization
from iotplatform.domain.principal import ANONYMOUS, Permission, Principal
from iotplatform.errors import Rejected
from iotplatform.runtime.strangers import Strangers

Needed: TypeAlias = Permission | Literal["public", "signed_in", "device"]
Guard: TypeAlias = Callable[[ASGIConnection[Any, Any, Any, Any], BaseRouteHandler], Awaitable[None]]

T = TypeVar("T")

_KEY: Final = "access"
_PRINCIPAL: Final = "principal"
_ACCEPTED: Final = frozenset({"*/*", "application/*", "application/json", "application/problem+json"})


class Access(msgspec.Struct, frozen=True):
    """`by`: where the organization stands. In the path the guard finds it; where the body names it, or the thing that
    is asked for belongs to it, the route itself asks.
    """

    needed: Needed
    by: Literal["path", "body", "thing"] = "path"

    @property
    def words(self) -> str:
        return self.needed if self.by == "path" else f"{self.needed}, by the {self.by}"


def _declared(needed: Needed, by: Literal["path", "body", "thing"] = "path") -> Mapping[str, Access]:
    return {_KEY: Access(needed, by)}


# With a path parameter `org` the permission is needed in that organization.
READ: Final = _declared("read")
OPERATE: Final = _declared("operate")
ADMINISTER: Final = _declared("administer")
ADMINISTER_BY_BODY: Final = _declared("administer", "body")
ADMINISTER_BY_THING: Final = _declared("administer", "thing")
# On the platform as a whole.
PLATFORM: Final = _declared("platform")
# Any person or program; what it gets to see depends on who it is.
SIGNED_IN: Final = _declared("signed_in")
# A device, with its own token.
DEVICE: Final = _declared("device")
# Everybody, and what else they present is not looked at.
PUBLIC: Final = _declared("public")


def access_of(handler: BaseRouteHandler) -> Access:
    """What the route of this handler needs.

    Raises:
        TypeError: it does not say.
    """
    declared = handler.opt.get(_KEY)
    if not isinstance(declared, Access):
        raise TypeError(f"{handler} declares no access: give its decorator opt=READ or another of access.py")
    return declared


def check_declared(handlers: Iterable[HTTPRouteHandler]) -> None:
    """Refuse to serve a route that does not say who may call it."""
    for handler in handlers:
        declared = access_of(handler)
        by_path = any("{org:" in path for path in handler.paths)
        if by_path and declared.needed not in {"ingest", "read", "operate", "administer", "platform"}:
            raise TypeError(f"{handler} is about one organization, and {declared.needed!r} is no permission in it")
        if not by_path and declared.by == "path" and declared.needed in {"read", "operate", "administer"}:
            raise TypeError(f"{handler} names no organization in which {declared.needed!r} could be needed")


def forbidden() -> Rejected:
    """The same for what exists and what does not: nothing is betrayed."""
    return Rejected("forbidden", "the credential does not open this")


def principal_of(request: Request[Any, Any, Any] | ASGIConnection[Any, Any, Any, Any]) -> Principal:
    """Who a request comes from; its `name` is for audits and timelines."""
    found = request.scope["state"].get(_PRINCIPAL)
    return found if isinstance(found, Principal) else ANONYMOUS


async def organization_for(
    directory: Directory, principal: Principal, permission: Permission, organization_id: str
) -> Organization | None:
    """The organization in which `principal` may do this; None, for those who may know that, when there is none.

    Raises:
        Rejected: it may not, or there is none and that is none of its business.
    """
    organization = await directory.organization(organization_id)
    if not principal.may(permission, organization.epoch if organization else None):
        raise forbidden()
    return organization


def guard_by(
    authenticator: Authenticator, directory: Directory, strangers: Strangers, *, required: bool = False
) -> Guard:
    """Unless `required`, nobody needs a credential; one that is presented is verified."""

    async def guard(connection: ASGIConnection[Any, Any, Any, Any], handler: BaseRouteHandler) -> None:
        if connection.scope.get("method") == "OPTIONS":
            return  # Litestar's own: which methods a path takes stands in the document that everybody may read
        access = access_of(handler)
        if access.needed == "public":
            return
        _check_accept(connection.headers.get("accept", "*/*"), handler.opt.get("also_answers", ()))
        given = connection.headers.getall("authorization", [])
        if len(given) > 1:
            raise Rejected("unauthenticated", "there is more than one Authorization header")
        credential = bearer(given[0] if given else None)
        if credential is not None:
            principal = await known_to(strangers, connection, credential, authenticator.authenticate(credential))
        elif required:
            raise Rejected("unauthenticated", "a credential is needed: `Authorization: Bearer <token or key>`")
        else:
            principal = ANONYMOUS
        connection.scope["state"][_PRINCIPAL] = principal
        await _check(directory, principal, access, connection.path_params.get("org"))

    return guard


async def known_to(
    strangers: Strangers, connection: ASGIConnection[Any, Any, Any, Any], secret: str, look: Coroutine[Any, Any, T]
) -> T:
    """What looking at a secret gives; and not looked at any more when too many of this address were refused.

    Raises:
        Rejected: it opens nothing, or there were too many (over_quota).
    """
    address = connection.client.host if connection.client else ""
    shown = secret.encode("utf-8", "surrogatepass")
    if wait_s := strangers.wait_s(address, shown):
        look.close()
        detail = "too many credentials from this address were refused: wait before trying another one"
        raise Rejected("over_quota", detail, retry_after_s=wait_s)
    try:
        found = await look
    except Rejected as error:
        if error.kind == "unauthenticated":
            strangers.refused(address, shown)
        raise
    strangers.let_in(shown)
    return found


def bearer(authorization: str | None) -> str | None:
    """The credential in an Authorization header; None when there is no header.

    Raises:
        Rejected: it holds something else (unauthenticated).
    """
    if authorization is None:
        return None
    scheme, _, credential = authorization.partition(" ")
    if scheme.lower() != "bearer" or not credential.strip():
        raise Rejected("unauthenticated", "the Authorization header must be `Bearer <token or key>`")
    return credential.strip()


async def _check(directory: Directory, principal: Principal, access: Access, organization_id: str | None) -> None:
    match access.needed:
        case "public":
            allowed = True
        case "device":
            allowed = principal.kind == "device"
        case "signed_in":
            allowed = principal.kind != "device"
        case permission if organization_id is not None:
            await organization_for(directory, principal, permission, organization_id)
            allowed = True
        case permission:
            allowed = principal.kind != "device" if access.by != "path" else principal.may(permission, None)
    if not allowed:
        raise forbidden()


def _check_accept(accept: str, others: Sequence[str]) -> None:
    """`others`: what a route answers beside JSON."""
    kinds = {part.partition(";")[0].strip().lower() for part in accept.split(",")}
    if not kinds & {*_ACCEPTED, *others} and kinds != {""}:
        raise HTTPException(status_code=406, detail=f"answers are {', '.join(('application/json', *others))}")

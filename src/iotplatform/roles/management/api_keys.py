"""`/api-keys`: for programs. A key is shown once, and never has more than who made it."""

from __future__ import annotations

import secrets
import time
import uuid
from typing import Annotated

import msgspec
from litestar import Response, delete, get, post
from litestar.di import NamedDependency
from litestar.params import FromPath, JSONBody, QueryParameter

from iotplatform.adapters.postgres import api_keys
from iotplatform.adapters.postgres.api_keys import StoredKey
from iotplatform.adapters.postgres.changes import Change
from iotplatform.domain.credentials import API_KEY_PREFIX, secret_hash
from iotplatform.domain.organization import Organization
from iotplatform.domain.principal import Permission, Principal
from iotplatform.domain.timestamps import format_timestamp, parse_timestamp, to_datetime, to_microseconds
from iotplatform.errors import Fault, Rejected
from iotplatform.roles.management.access import (
    ADMINISTER_BY_BODY,
    ADMINISTER_BY_THING,
    SIGNED_IN,
    forbidden,
    organization_for,
)
from iotplatform.roles.management.context import ManagementContext, known_form, not_found
from iotplatform.roles.management.fields import Body, Identifier, Name
from iotplatform.roles.management.paging import BY_ID, DEFAULT_LIMIT, Cursor, Limit, Page, decode_cursor, page

OfOrganization = Annotated[str | None, QueryParameter(name="organization_id", description="only its keys")]


class NewApiKey(Body, frozen=True, kw_only=True):
    """Without an organization it is one of the platform, and its scopes hold in every organization."""

    name: Name
    scopes: Annotated[tuple[Permission, ...], msgspec.Meta(min_length=1, max_length=10)]
    organization_id: Identifier | None = None
    expires_at: str | int | float | None = None


class ApiKeyAnswer(msgspec.Struct, frozen=True):
    id: str
    organization_id: str | None
    name: str
    scopes: list[str]
    created_by: str
    created_at: str
    expires_at: str | None
    revoked_at: str | None


class ApiKeyMade(msgspec.Struct, frozen=True):
    """`key` is shown this once."""

    id: str
    organization_id: str | None
    name: str
    scopes: list[Permission]
    expires_at: str | None
    key: str


@post("/api-keys", opt=ADMINISTER_BY_BODY)
async def create_api_key(
    data: JSONBody[NewApiKey], context: NamedDependency[ManagementContext], principal: NamedDependency[Principal]
) -> Response[ApiKeyMade]:
    organization = await _organization(context, principal, data)
    epoch = None if organization is None else organization.epoch
    if not set(data.scopes) <= principal.permissions(epoch):
        raise forbidden()
    expires_at = _expiry(data)
    key_id, key = str(uuid.uuid4()), API_KEY_PREFIX + secrets.token_urlsafe(24)
    scopes = list(dict.fromkeys(data.scopes))
    await api_keys.add(
        context.database,
        key_id,
        epoch,
        name=data.name,
        secret_hash=secret_hash(key),
        scopes=[*scopes],
        created_by=principal.name,
        expires_at=None if expires_at is None else to_datetime(expires_at),
    )
    shown_expiry = None if expires_at is None else format_timestamp(expires_at)
    made = ApiKeyMade(key_id, data.organization_id, data.name, scopes, shown_expiry, key)
    return Response(made, status_code=201, headers={"Location": f"/api-keys/{key_id}"})


@get("/api-keys", opt=SIGNED_IN)
async def list_api_keys(
    context: NamedDependency[ManagementContext],
    principal: NamedDependency[Principal],
    organization_id: OfOrganization = None,
    limit: Limit = DEFAULT_LIMIT,
    cursor: Cursor = None,
) -> Page[ApiKeyAnswer]:
    """Those of the organizations that the caller administers; a platform administrator sees all."""
    after = decode_cursor(cursor, BY_ID)
    epochs = None
    if not principal.may("platform", None):
        if principal.may("administer", None):
            known = [organization.epoch for organization in context.directory.organizations()]
        else:
            known = [epoch for epoch in principal.within if principal.may("administer", epoch)]
        epochs = known
    if organization_id is not None:
        known_form("organization", organization_id)
    found = await api_keys.page(context.database, limit + 1, after, epochs=epochs, organization_id=organization_id)
    return page(found, limit, _answer, lambda last: last.id)


@delete("/api-keys/{key:str}", opt=ADMINISTER_BY_THING)
async def revoke_api_key(
    key: FromPath[str], context: NamedDependency[ManagementContext], principal: NamedDependency[Principal]
) -> None:
    """It opens nothing any more; that it was there stays known."""
    found = await _find(context, principal, key)
    await api_keys.revoke(context.database, found.id)
    # Other processes hear of it by the change feed; this one need not wait for that.
    await context.directory.apply([Change("api_key", found.epoch, found.id)])


async def _find(context: ManagementContext, principal: Principal, key: str) -> StoredKey:
    platform = principal.may("platform", None)
    try:
        found = await api_keys.find(context.database, known_form("key", key))
    except Rejected:
        found = None
    if found is not None and (platform or (found.epoch is not None and principal.may("administer", found.epoch))):
        return found
    raise not_found("key", key) if platform else forbidden()


async def _organization(context: ManagementContext, principal: Principal, data: NewApiKey) -> Organization | None:
    if data.organization_id is None:
        if not principal.may("platform", None):
            raise forbidden()
        return None
    organization = await organization_for(context.directory, principal, "administer", data.organization_id)
    if "platform" in data.scopes:
        fault = Fault("holds 'platform', which no key of an organization can have", field="scopes")
        raise Rejected("invalid", "the body is not valid", faults=(fault,))
    if organization is None:
        raise not_found("organization", data.organization_id)
    return organization


def _expiry(data: NewApiKey) -> int | None:
    if data.expires_at is None:
        return None
    try:
        at = parse_timestamp(data.expires_at)
        to_datetime(at)
    except (ValueError, OverflowError) as error:
        fault = "is no time" if isinstance(error, OverflowError) else str(error)
        raise Rejected("invalid", "the body is not valid", faults=(Fault(fault, field="expires_at"),)) from error
    if at <= time.time() * 1_000_000:
        fault = "is in the past"
        raise Rejected("invalid", "the body is not valid", faults=(Fault(fault, field="expires_at"),))
    return at


def _answer(key: StoredKey) -> ApiKeyAnswer:
    return ApiKeyAnswer(
        id=key.id,
        organization_id=key.organization_id,
        name=key.name,
        scopes=key.scopes,
        created_by=key.created_by,
        created_at=format_timestamp(to_microseconds(key.created_at)),
        expires_at=None if key.expires_at is None else format_timestamp(to_microseconds(key.expires_at)),
        revoked_at=None if key.revoked_at is None else format_timestamp(to_microseconds(key.revoked_at)),
    )

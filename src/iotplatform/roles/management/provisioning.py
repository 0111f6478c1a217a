"""Devices that register themselves: an organization's provisioning keys, and `/provision`, where they are used."""

from __future__ import annotations

import datetime as dt
import secrets
import uuid
from hashlib import sha256
from typing import Annotated, Any, Final

import msgspec
from litestar import Request, Response, delete, get, post
from litestar.di import NamedDependency
from litestar.params import FromPath, JSONBody

from iotplatform.adapters.postgres import device_batches, provisioning_keys
from iotplatform.adapters.postgres.actor import Actor, act_for
from iotplatform.adapters.postgres.device_batches import DeviceToAdd
from iotplatform.adapters.postgres.models import ProvisioningKeyRow
from iotplatform.domain.organization import Organization
from iotplatform.domain.timestamps import format_timestamp, parse_timestamp, to_datetime, to_microseconds
from iotplatform.errors import Fault, Rejected
from iotplatform.roles.management.access import ADMINISTER, PUBLIC, known_to
from iotplatform.roles.management.context import ManagementContext, known_form, not_found
from iotplatform.roles.management.devices import DeviceMade, check_metadata, device_answer
from iotplatform.roles.management.fields import Body, Identifier, Name, Tag
from iotplatform.roles.management.paging import BY_ID, DEFAULT_LIMIT, Cursor, Limit, Page, decode_cursor, page
from iotplatform.roles.management.tokens import NewCredential
from iotplatform.runtime.clock import now_us

PREFIX: Final = "iotp_"
MAX_USES: Final = 1_000_000
_LAST_US: Final = 253_402_214_400_000_000


class NewProvisioningKey(Body, frozen=True, kw_only=True):
    """`tags` are given to every device that registers by it. Without `max_uses` and `expires_at` it has no end."""

    name: Name
    tags: Annotated[tuple[Tag, ...], msgspec.Meta(max_length=100)] = ()
    max_uses: Annotated[int, msgspec.Meta(ge=1, le=MAX_USES)] | None = None
    expires_at: str | float | None = None


class ProvisioningKeyAnswer(msgspec.Struct, frozen=True):
    id: str
    name: str
    tags: list[str]
    max_uses: int | None
    uses: int
    created_at: str
    expires_at: str | None
    revoked_at: str | None


class ProvisioningKeyMade(ProvisioningKeyAnswer, frozen=True):
    """`key` is shown this once."""

    key: str


class Provisioning(Body, frozen=True, kw_only=True):
    """What a device says of itself. Without an `id` it gets one, without a `name` the id's."""

    key: Annotated[str, msgspec.Meta(min_length=1, max_length=200)]
    id: Identifier | None = None
    name: Name | None = None
    metadata: dict[str, Any] = msgspec.field(default_factory=dict)


@post("/organizations/{org:str}/provisioning-keys", opt=ADMINISTER)
async def create_provisioning_key(
    org: FromPath[str], data: JSONBody[NewProvisioningKey], context: NamedDependency[ManagementContext]
) -> Response[ProvisioningKeyMade]:
    expires_at = _expiry(data.expires_at)
    organization = await context.organization(org)
    key = PREFIX + secrets.token_urlsafe(32)
    row = ProvisioningKeyRow(
        epoch=organization.epoch,
        id=str(uuid.uuid4()),
        name=data.name,
        secret_hash=_hash(key),
        tags=list(dict.fromkeys(data.tags)),
        max_uses=data.max_uses,
        expires_at=expires_at,
        revoked_at=None,
    )
    made = await provisioning_keys.add(context.database, row)
    answer = ProvisioningKeyMade(**msgspec.structs.asdict(_answer(made)), key=key)
    location = f"/organizations/{organization.id}/provisioning-keys/{made.id}"
    return Response(answer, status_code=201, headers={"Location": location})


@get("/organizations/{org:str}/provisioning-keys", opt=ADMINISTER)
async def list_provisioning_keys(
    org: FromPath[str],
    context: NamedDependency[ManagementContext],
    limit: Limit = DEFAULT_LIMIT,
    cursor: Cursor = None,
) -> Page[ProvisioningKeyAnswer]:
    after = decode_cursor(cursor, BY_ID)
    organization = await context.organization(org)
    found = await provisioning_keys.page(context.database, organization.epoch, limit + 1, after)
    return page(found, limit, _answer, lambda last: last.id)


@delete("/organizations/{org:str}/provisioning-keys/{key:str}", opt=ADMINISTER)
async def revoke_provisioning_key(
    org: FromPath[str], key: FromPath[str], context: NamedDependency[ManagementContext]
) -> None:
    """At once. Devices that have registered by it keep their tokens."""
    organization = await context.organization(org)
    if not await provisioning_keys.revoke(context.database, organization.epoch, known_form("provisioning key", key)):
        raise not_found("provisioning key", key)


@post("/provision", opt=PUBLIC)
async def provision_device(
    data: JSONBody[Provisioning], request: Request[Any, Any, Any], context: NamedDependency[ManagementContext]
) -> Response[DeviceMade]:
    """A device registers itself by a key of its organization, and gets a token of its own."""
    check_metadata(data.metadata)
    key, organization = await known_to(context.entrance.strangers, request, data.key, _usable(context, data.key))
    act_for(Actor(f"provisioning key {key.name}", "provisioning_key"))
    device_id = data.id or str(uuid.uuid4())
    credential = NewCredential.issue(context.tokens, organization.id, device_id)
    device = DeviceToAdd(
        id=device_id,
        name=data.name or device_id,
        tags=key.tags,
        metadata=data.metadata,
        token_id=credential.token_id,
        token_expires_at=credential.expires_at,
    )
    row = await device_batches.use_key(context.database, (key.epoch, key.id), device)
    made = DeviceMade(
        **msgspec.structs.asdict(device_answer(row, organization.id)),
        token=credential.token,
        token_id=credential.token_id,
        token_expires_at=format_timestamp(to_microseconds(credential.expires_at)),
    )
    location = f"/organizations/{organization.id}/devices/{device_id}"
    return Response(made, status_code=201, headers={"Location": location})


async def _usable(context: ManagementContext, secret: str) -> tuple[ProvisioningKeyRow, Organization]:
    key = await device_batches.usable_key(context.database, _hash(secret))
    known = context.directory.organizations()
    organization = next((each for each in known if key is not None and each.epoch == key.epoch), None)
    if key is None or organization is None:
        raise Rejected("unauthenticated", "the provisioning key is not valid")
    return key, organization


def _hash(key: str) -> str:
    """Quick to make: the key is random, so nobody guesses it whatever the hash costs."""
    return sha256(key.encode("utf-8", "surrogatepass")).hexdigest()


def _expiry(given: str | float | None) -> dt.datetime | None:
    if given is None:
        return None
    try:
        at = parse_timestamp(given)
    except (ValueError, OverflowError) as error:
        raise _invalid(str(error)) from error
    if at <= now_us():
        raise _invalid("must be in the future")
    if at > _LAST_US:
        raise _invalid("is too large for a time")
    return to_datetime(at)


def _invalid(detail: str) -> Rejected:
    return Rejected("invalid", "the body is not valid", faults=(Fault(detail, field="expires_at"),))


def _answer(row: ProvisioningKeyRow) -> ProvisioningKeyAnswer:
    return ProvisioningKeyAnswer(
        id=row.id,
        name=row.name,
        tags=row.tags,
        max_uses=row.max_uses,
        uses=row.uses,
        created_at=format_timestamp(to_microseconds(row.created_at)),
        expires_at=_shown(row.expires_at),
        revoked_at=_shown(row.revoked_at),
    )


def _shown(at: dt.datetime | None) -> str | None:
    return None if at is None else format_timestamp(to_microseconds(at))

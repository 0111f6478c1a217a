"""`/organizations/{org}/devices`, and `/devices` as another way to make one."""

from __future__ import annotations

import uuid
from typing import Annotated, Any, Final

import msgspec
from litestar import Response, delete, get, patch, post, put
from litestar.di import NamedDependency
from litestar.openapi.datastructures import ResponseSpec
from litestar.params import FromPath, JSONBody, QueryParameter

from iotplatform.adapters.postgres import devices
from iotplatform.adapters.postgres.models import DeviceRow
from iotplatform.domain.organization import Organization
from iotplatform.domain.principal import Principal
from iotplatform.domain.timestamps import format_timestamp, to_microseconds
from iotplatform.errors import Fault, Rejected
from iotplatform.roles.management.access import ADMINISTER, ADMINISTER_BY_BODY, READ, organization_for
from iotplatform.roles.management.context import ManagementContext, known_form, not_found
from iotplatform.roles.management.etags import IfMatch, IfNoneMatch, etag, precondition
from iotplatform.roles.management.fields import Body, Identifier, Name, Tag
from iotplatform.roles.management.paging import BY_ID, DEFAULT_LIMIT, Cursor, Limit, Page, decode_cursor, page
from iotplatform.roles.management.parameters import check_text
from iotplatform.roles.management.patches import check_path_id, merged
from iotplatform.roles.management.tokens import NewCredential

MAX_METADATA_BYTES: Final = 16 * 1024
MAX_METADATA_DEPTH: Final = 32
# Beyond this PostgreSQL gives back a whole number that JSON for others can't hold.
_NUMBERS_BELOW: Final = 1 << 63


class NewDevice(Body, frozen=True, kw_only=True):
    name: Name
    id: Identifier | None = None
    tags: Annotated[tuple[Tag, ...], msgspec.Meta(max_length=100)] = ()
    metadata: dict[str, Any] = msgspec.field(default_factory=dict)


class NewDeviceOf(NewDevice, frozen=True, kw_only=True):
    organization_id: Identifier


class DevicePatch(Body, frozen=True):
    """`metadata` is merged into what there is, member by member."""

    name: Name | msgspec.UnsetType = msgspec.UNSET
    tags: Annotated[tuple[Tag, ...], msgspec.Meta(max_length=100)] | msgspec.UnsetType | None = msgspec.UNSET
    metadata: dict[str, Any] | msgspec.UnsetType | None = msgspec.UNSET


class DeviceAnswer(msgspec.Struct, frozen=True):
    id: str
    organization_id: str
    name: str
    tags: list[str]
    metadata: dict[str, Any]
    created_at: str


class DeviceMade(DeviceAnswer, frozen=True):
    """`token` is shown this once."""

    token: str
    token_id: str
    token_expires_at: str


@post("/organizations/{org:str}/devices", opt=ADMINISTER)
async def create_device(
    org: FromPath[str], data: JSONBody[NewDevice], context: NamedDependency[ManagementContext]
) -> Response[DeviceMade]:
    return await _create(context, org, await context.directory.organization(org), data)


@post("/devices", opt=ADMINISTER_BY_BODY)
async def create_device_of(
    data: JSONBody[NewDeviceOf], context: NamedDependency[ManagementContext], principal: NamedDependency[Principal]
) -> Response[DeviceMade]:
    organization = await organization_for(context.directory, principal, "administer", data.organization_id)
    return await _create(context, data.organization_id, organization, data)


async def _create(
    context: ManagementContext, organization_id: str, organization: Organization | None, new: NewDevice
) -> Response[DeviceMade]:
    check_metadata(new.metadata)
    if organization is None:
        raise not_found("organization", organization_id)
    device_id = new.id or str(uuid.uuid4())
    credential = NewCredential.issue(context.tokens, organization.id, device_id)
    row = await devices.add(
        context.database,
        organization.epoch,
        device_id,
        name=new.name,
        tags=list(dict.fromkeys(new.tags)),
        metadata=new.metadata,
        token_id=credential.token_id,
        token_expires_at=credential.expires_at,
    )
    made = DeviceMade(
        **msgspec.structs.asdict(device_answer(row, organization.id)),
        token=credential.token,
        token_id=credential.token_id,
        token_expires_at=format_timestamp(to_microseconds(credential.expires_at)),
    )
    location = f"/organizations/{organization.id}/devices/{device_id}"
    headers = {"Location": location, "ETag": etag(row.version)}
    return Response(made, status_code=201, headers=headers)


@get("/organizations/{org:str}/devices", opt={**READ, "planned_parameters": ("state",)})
async def list_devices(
    org: FromPath[str],
    context: NamedDependency[ManagementContext],
    tag: Annotated[list[str] | None, QueryParameter(description="repeatable: devices that have all of them")] = None,
    q: Annotated[str | None, QueryParameter(description="part of the id or the name")] = None,
    limit: Limit = DEFAULT_LIMIT,
    cursor: Cursor = None,
) -> Page[DeviceAnswer]:
    tags, text = check_text("tag", tag), check_text("q", [q] if q else [])
    after = decode_cursor(cursor, BY_ID)
    organization = await context.organization(org)
    found = await devices.page(
        context.database, organization.epoch, limit + 1, after, tags=list(tags), text=text[0] if text else None
    )
    return page(found, limit, lambda row: device_answer(row, organization.id), lambda last: last.id)


@get("/organizations/{org:str}/devices/{device:str}", opt=READ)
async def read_device(
    org: FromPath[str], device: FromPath[str], context: NamedDependency[ManagementContext]
) -> Response[DeviceAnswer]:
    organization = await context.organization(org)
    row = await devices.find(context.database, organization.epoch, known_form("device", device))
    if row is None:
        raise not_found("device", device)
    return _shown(row, organization.id)


@put(
    "/organizations/{org:str}/devices/{device:str}",
    responses={201: ResponseSpec(DeviceMade, description="made, with its first token")},
    opt=ADMINISTER,
)
async def put_device(
    org: FromPath[str],
    device: FromPath[str],
    data: JSONBody[NewDevice],
    context: NamedDependency[ManagementContext],
    if_match: IfMatch = None,
    if_none_match: IfNoneMatch = None,
) -> Response[DeviceMade] | Response[DeviceAnswer]:
    check_path_id(device, data.id)
    check_metadata(data.metadata)
    expected = precondition(if_match, if_none_match)

    def replace(row: DeviceRow) -> None:
        expected.check(row.version)
        row.name, row.tags, row.attributes = data.name, list(dict.fromkeys(data.tags)), data.metadata

    organization = await context.organization(org)
    row = await devices.change(context.database, organization.epoch, device, replace)
    if row is not None:
        return _shown(row, organization.id)
    expected.check(None)
    return await _create(context, org, organization, msgspec.structs.replace(data, id=device))


@patch("/organizations/{org:str}/devices/{device:str}", opt=ADMINISTER)
async def patch_device(
    org: FromPath[str],
    device: FromPath[str],
    data: JSONBody[DevicePatch],
    context: NamedDependency[ManagementContext],
    if_match: IfMatch = None,
) -> Response[DeviceAnswer]:
    """A merge patch (RFC 7396)."""
    expected = precondition(if_match)
    # Before anything is merged, because merging goes as deep as the patch does.
    check_metadata(data.metadata or {})

    def apply(row: DeviceRow) -> None:
        expected.check(row.version)
        if data.name is not msgspec.UNSET:
            row.name = data.name
        if data.tags is not msgspec.UNSET:
            row.tags = list(dict.fromkeys(data.tags or ()))
        if data.metadata is not msgspec.UNSET:
            metadata = {} if data.metadata is None else merged(row.attributes, data.metadata)
            check_metadata(metadata)
            row.attributes = metadata

    organization = await context.organization(org)
    row = await devices.change(context.database, organization.epoch, known_form("device", device), apply)
    if row is None:
        raise not_found("device", device)
    return _shown(row, organization.id)


@delete("/organizations/{org:str}/devices/{device:str}", opt=ADMINISTER)
async def delete_device(
    org: FromPath[str],
    device: FromPath[str],
    context: NamedDependency[ManagementContext],
    principal: NamedDependency[Principal],
    if_match: IfMatch = None,
) -> None:
    """With its tokens, readings and latest values. Its alarms are cleared, and stay in the organization's history."""
    check = precondition(if_match).check
    organization = await context.organization(org)
    if not await context.delete_device(organization, known_form("device", device), check, principal.name):
        raise not_found("device", device)


def _shown(row: DeviceRow, organization_id: str) -> Response[DeviceAnswer]:
    headers = {"ETag": etag(row.version)}
    return Response(device_answer(row, organization_id), status_code=200, headers=headers)


def device_answer(row: DeviceRow, organization_id: str) -> DeviceAnswer:
    created_at = format_timestamp(to_microseconds(row.created_at))
    return DeviceAnswer(row.id, organization_id, row.name, row.tags, row.attributes, created_at)


def check_metadata(metadata: dict[str, Any]) -> None:
    fault = _metadata_fault(metadata)
    if fault is None and len(msgspec.json.encode(metadata)) > MAX_METADATA_BYTES:
        fault = f"must be at most {MAX_METADATA_BYTES} bytes of JSON"
    if fault is not None:
        raise Rejected("invalid", "the body is not valid", faults=(Fault(fault, field="metadata"),))


def _metadata_fault(value: Any, depth: int = 0) -> str | None:
    # Python's own bound on recursion would end in a 500, here or when it is read again.
    if depth > MAX_METADATA_DEPTH:
        return f"must not be nested deeper than {MAX_METADATA_DEPTH} levels"
    match value:
        case str():
            return "must not contain the character NUL" if "\x00" in value else None
        case int() | float():
            return None if abs(value) < _NUMBERS_BELOW else "must not contain numbers of 2^63 and beyond"
        case dict():
            parts = (*value, *value.values())
            return next((fault for each in parts if (fault := _metadata_fault(each, depth + 1))), None)
        case list():
            return next((fault for each in value if (fault := _metadata_fault(each, depth + 1))), None)
        case _:
            return None

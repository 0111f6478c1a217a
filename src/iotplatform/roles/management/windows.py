"""`/organizations/{org}/maintenance-windows`."""

from __future__ import annotations

import uuid
from typing import Annotated

import msgspec
from litestar import Response, delete, get, post, put
from litestar.di import NamedDependency
from litestar.openapi.datastructures import ResponseSpec
from litestar.params import FromPath, JSONBody

from iotplatform.adapters.postgres import windows
from iotplatform.adapters.postgres.models import MaintenanceWindowRow
from iotplatform.domain.identifiers import identifier_fault
from iotplatform.domain.maintenance import MaintenanceWindow
from iotplatform.domain.organization import Organization
from iotplatform.domain.principal import Principal
from iotplatform.domain.rule import Devices
from iotplatform.domain.timestamps import format_timestamp, to_microseconds
from iotplatform.errors import Fault, Rejected
from iotplatform.roles.management.access import OPERATE, READ
from iotplatform.roles.management.context import ManagementContext, known_form, not_found
from iotplatform.roles.management.etags import IfMatch, IfNoneMatch, etag, precondition
from iotplatform.roles.management.fields import Body, Identifier, Moment, Name, Tag, parsed_moment
from iotplatform.roles.management.paging import BY_ID, DEFAULT_LIMIT, Cursor, Limit, Page, decode_cursor, page

MANY = msgspec.Meta(max_length=1_000)


class WindowDevices(Body, frozen=True):
    """The devices with one of these `ids`, and those that have all of these `tags`."""

    ids: Annotated[tuple[Identifier, ...], MANY] = ()
    tags: Annotated[tuple[Tag, ...], MANY] = ()


class WindowBody(Body, frozen=True, kw_only=True):
    """From a time up to another, RFC 3339 or epoch numbers; without `devices` for all of them, without `rules` too."""

    name: Name
    since: Moment = msgspec.field(name="from")
    until: Moment = msgspec.field(name="to")
    id: Identifier | None = None
    devices: WindowDevices | None = None
    rules: Annotated[tuple[Identifier, ...], MANY] = ()

    def window(self, window_id: str) -> MaintenanceWindow:
        """The window that is meant.

        Raises:
            Rejected: it can't be one.
        """
        since, until = parsed_moment("from", self.since), parsed_moment("to", self.until)
        faults = []
        if since >= until:
            faults.append(Fault("must be later than 'from'", field="to"))
        if self.devices is not None and not (self.devices.ids or self.devices.tags):
            faults.append(Fault("must name ids or tags; leave it out for all devices", field="devices"))
        if self.id not in {None, window_id}:
            faults.append(Fault("must be the id in the path, or be left out", field="id"))
        if faults:
            raise Rejected("invalid", "the body is not valid", faults=tuple(faults))
        return MaintenanceWindow(
            id=window_id,
            name=self.name,
            starts_at=since,
            ends_at=until,
            devices=Devices(self.devices.ids, self.devices.tags) if self.devices else None,
            rules=tuple(dict.fromkeys(self.rules)),
        )


class WindowAnswer(msgspec.Struct, frozen=True, rename={"since": "from", "until": "to"}):
    id: str
    name: str
    since: str
    until: str
    devices: Devices | None
    rules: tuple[str, ...]


@get("/organizations/{org:str}/maintenance-windows", opt=READ)
async def list_windows(
    org: FromPath[str],
    context: NamedDependency[ManagementContext],
    limit: Limit = DEFAULT_LIMIT,
    cursor: Cursor = None,
) -> Page[WindowAnswer]:
    after = decode_cursor(cursor, BY_ID)
    organization = await context.organization(org)
    found = await windows.page(context.database, organization.epoch, limit + 1, after)
    return page(found, limit, _answer_of_row, lambda last: last.id)


@post("/organizations/{org:str}/maintenance-windows", opt=OPERATE)
async def create_window(
    org: FromPath[str],
    data: JSONBody[WindowBody],
    context: NamedDependency[ManagementContext],
    principal: NamedDependency[Principal],
) -> Response[WindowAnswer]:
    window = data.window(data.id or str(uuid.uuid4()))
    organization = await context.organization(org)
    return _made(organization, await windows.add(context.database, organization.epoch, window, principal.name))


@get("/organizations/{org:str}/maintenance-windows/{window:str}", opt=READ)
async def read_window(
    org: FromPath[str], window: FromPath[str], context: NamedDependency[ManagementContext]
) -> Response[WindowAnswer]:
    organization = await context.organization(org)
    found = await windows.find(context.database, organization.epoch, known_form("maintenance window", window))
    if found is None:
        raise not_found("maintenance window", window)
    return _shown(found)


@put(
    "/organizations/{org:str}/maintenance-windows/{window:str}",
    responses={201: ResponseSpec(WindowAnswer, description="made")},
    opt=OPERATE,
)
async def put_window(
    org: FromPath[str],
    window: FromPath[str],
    data: JSONBody[WindowBody],
    context: NamedDependency[ManagementContext],
    principal: NamedDependency[Principal],
    *,
    if_match: IfMatch = None,
    if_none_match: IfNoneMatch = None,
) -> Response[WindowAnswer]:
    expected = precondition(if_match, if_none_match)
    fault = identifier_fault(window)
    if fault is not None:
        raise Rejected("invalid", "the id in the path is not valid", faults=(Fault(fault, field="id"),))
    wanted = data.window(window)
    organization = await context.organization(org)
    row, made = await windows.put(context.database, organization.epoch, wanted, principal.name, expected.check)
    return _made(organization, row) if made else _shown(row)


@delete("/organizations/{org:str}/maintenance-windows/{window:str}", opt=OPERATE)
async def delete_window(
    org: FromPath[str],
    window: FromPath[str],
    context: NamedDependency[ManagementContext],
    if_match: IfMatch = None,
) -> None:
    check = precondition(if_match).check
    organization = await context.organization(org)
    if not await windows.remove(context.database, organization.epoch, known_form("maintenance window", window), check):
        raise not_found("maintenance window", window)


def _made(organization: Organization, row: MaintenanceWindowRow) -> Response[WindowAnswer]:
    location = f"/organizations/{organization.id}/maintenance-windows/{row.id}"
    headers = {"Location": location, "ETag": etag(row.version)}
    return Response(_answer_of_row(row), status_code=201, headers=headers)


def _shown(row: MaintenanceWindowRow) -> Response[WindowAnswer]:
    return Response(_answer_of_row(row), status_code=200, headers={"ETag": etag(row.version)})


def _answer_of_row(row: MaintenanceWindowRow) -> WindowAnswer:
    devices = Devices(tuple(row.device_ids), tuple(row.device_tags))
    return WindowAnswer(
        id=row.id,
        name=row.name,
        since=format_timestamp(to_microseconds(row.starts_at)),
        until=format_timestamp(to_microseconds(row.ends_at)),
        devices=devices if devices.ids or devices.tags else None,
        rules=tuple(row.rule_ids),
    )

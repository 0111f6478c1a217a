"""`/organizations`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated

import msgspec
from litestar import Response, delete, get, patch, post, put
from litestar.di import NamedDependency
from litestar.openapi.datastructures import ResponseSpec
from litestar.params import FromPath, JSONBody, QueryParameter

from iotplatform.adapters.postgres import organizations
from iotplatform.adapters.postgres.changes import Change
from iotplatform.adapters.postgres.models import OrganizationRow
from iotplatform.domain.channel import LOG_CHANNEL
from iotplatform.domain.organization import Organization
from iotplatform.domain.principal import Principal
from iotplatform.domain.timestamps import format_timestamp, to_microseconds
from iotplatform.errors import Fault, Rejected
from iotplatform.roles.management.access import ADMINISTER, PLATFORM, READ, SIGNED_IN
from iotplatform.roles.management.context import ManagementContext, known_form, not_found
from iotplatform.roles.management.etags import IfMatch, IfNoneMatch, etag, precondition
from iotplatform.roles.management.fields import Body, Identifier, Name
from iotplatform.roles.management.paging import BY_ID, DEFAULT_LIMIT, Cursor, Limit, Page, decode_cursor, page
from iotplatform.roles.management.patches import check_path_id


class NewOrganization(Body, frozen=True):
    """`partitions` bounds how many processes can share the organization's work; it never changes."""

    id: Identifier
    name: Name
    partitions: Annotated[int, msgspec.Meta(ge=1, le=64)] = 1


class WholeOrganization(Body, frozen=True):
    """An organization as it is to be. `partitions` counts when it is made (1 unless given), and never changes."""

    name: Name
    id: Identifier | None = None
    partitions: Annotated[int, msgspec.Meta(ge=1, le=64)] | None = None


class OrganizationPatch(Body, frozen=True):
    name: Name | msgspec.UnsetType = msgspec.UNSET


Confirm = Annotated[str | None, QueryParameter(description="the organization's id once more: nothing comes back")]


class OrganizationAnswer(msgspec.Struct, frozen=True):
    id: str
    name: str
    partitions: int
    created_at: str


def _answer(organization: Organization) -> OrganizationAnswer:
    return OrganizationAnswer(
        organization.id, organization.name, organization.partitions, format_timestamp(organization.created_at)
    )


def _shown(row: OrganizationRow) -> Response[OrganizationAnswer]:
    answer = OrganizationAnswer(row.id, row.name, row.partitions, format_timestamp(to_microseconds(row.created_at)))
    return Response(answer, status_code=200, headers={"ETag": etag(row.version)})


@post("/organizations", opt=PLATFORM)
async def create_organization(
    data: JSONBody[NewOrganization], context: NamedDependency[ManagementContext]
) -> Response[OrganizationAnswer]:
    return await _create(context, data)


async def _create(context: ManagementContext, new: NewOrganization) -> Response[OrganizationAnswer]:
    made = await organizations.create(
        context.database,
        new.id,
        new.name,
        new.partitions,
        rule=context.default_rule(new.id),
        channel=LOG_CHANNEL,
        make_stream=context.streams.renew_organization,
    )
    # Other processes hear of it by the change feed; this one need not wait for that.
    await context.directory.apply([Change("organization", made.epoch, made.id)])
    row = await organizations.find(context.database, made.id)
    headers = {"Location": f"/organizations/{made.id}"}
    if row is not None and row.epoch == made.epoch:
        headers["ETag"] = etag(row.version)
    return Response(_answer(made), status_code=201, headers=headers)


@get("/organizations", opt=SIGNED_IN)
async def list_organizations(
    context: NamedDependency[ManagementContext],
    principal: NamedDependency[Principal],
    limit: Limit = DEFAULT_LIMIT,
    cursor: Cursor = None,
) -> Page[OrganizationAnswer]:
    """Those that the caller may read."""
    own = None if principal.may("read", None) else [epoch for epoch in principal.within if principal.may("read", epoch)]
    found = await organizations.page(context.database, limit + 1, decode_cursor(cursor, BY_ID), epochs=own)
    return page(found, limit, _answer, lambda last: last.id)


@get("/organizations/{org:str}", opt=READ)
async def read_organization(
    org: FromPath[str], context: NamedDependency[ManagementContext]
) -> Response[OrganizationAnswer]:
    row = await organizations.find(context.database, known_form("organization", org))
    if row is None:
        raise not_found("organization", org)
    return _shown(row)


@put(
    "/organizations/{org:str}",
    responses={201: ResponseSpec(OrganizationAnswer, description="made")},
    opt=PLATFORM,
)
async def put_organization(
    org: FromPath[str],
    data: JSONBody[WholeOrganization],
    context: NamedDependency[ManagementContext],
    if_match: IfMatch = None,
    if_none_match: IfNoneMatch = None,
) -> Response[OrganizationAnswer]:
    check_path_id(org, data.id)
    expected = precondition(if_match, if_none_match)

    def replace(row: OrganizationRow) -> None:
        expected.check(row.version)
        if data.partitions not in {None, row.partitions}:
            raise Rejected("conflict", f"the organization has {row.partitions} partitions, and that never changes")
        row.name = data.name

    row = await _change(context, org, replace)
    if row is not None:
        return _shown(row)
    expected.check(None)
    return await _create(context, NewOrganization(org, data.name, data.partitions or 1))


@patch("/organizations/{org:str}", opt=ADMINISTER)
async def patch_organization(
    org: FromPath[str],
    data: JSONBody[OrganizationPatch],
    context: NamedDependency[ManagementContext],
    if_match: IfMatch = None,
) -> Response[OrganizationAnswer]:
    """A merge patch (RFC 7396)."""
    expected = precondition(if_match)

    def apply(row: OrganizationRow) -> None:
        expected.check(row.version)
        if data.name is not msgspec.UNSET:
            row.name = data.name

    row = await _change(context, known_form("organization", org), apply)
    if row is None:
        raise not_found("organization", org)
    return _shown(row)


async def _change(
    context: ManagementContext, organization_id: str, apply: Callable[[OrganizationRow], None]
) -> OrganizationRow | None:
    row = await organizations.change(context.database, organization_id, apply)
    if row is not None:
        await context.directory.apply([Change("organization", row.epoch, row.id)])
    return row


@delete("/organizations/{org:str}", opt=PLATFORM)
async def delete_organization(
    org: FromPath[str],
    context: NamedDependency[ManagementContext],
    confirm: Confirm = None,
    if_match: IfMatch = None,
) -> None:
    """Remove every trace: rows, readings, streams, messages, keys."""
    if confirm != org:
        fault = Fault(f"must be {org!r}, because every trace of the organization is removed", field="confirm")
        raise Rejected("invalid", "the query is not valid", faults=(fault,))
    expected = precondition(if_match)
    organization = await context.organization(org)
    if not await context.delete_organization(organization, expected.check):
        raise not_found("organization", org)

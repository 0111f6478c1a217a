"""`/organizations`."""

from __future__ import annotations

from typing import Annotated

import msgspec
from litestar import Response, delete, get, post
from litestar.di import NamedDependency
from litestar.params import FromPath, JSONBody, QueryParameter

from iotplatform.adapters.postgres import organizations
from iotplatform.adapters.postgres.changes import Change
from iotplatform.domain.channel import LOG_CHANNEL
from iotplatform.domain.organization import Organization
from iotplatform.domain.principal import Principal
from iotplatform.domain.timestamps import format_timestamp
from iotplatform.errors import Fault, Rejected
from iotplatform.roles.management.access import PLATFORM, READ, SIGNED_IN
from iotplatform.roles.management.context import ManagementContext, not_found
from iotplatform.roles.management.fields import Body, Identifier, Name
from iotplatform.roles.management.paging import BY_ID, DEFAULT_LIMIT, Cursor, Limit, Page, decode_cursor, page


class NewOrganization(Body, frozen=True):
    """`partitions` bounds how many processes can share the organization's work; it never changes."""

    id: Identifier
    name: Name
    partitions: Annotated[int, msgspec.Meta(ge=1, le=64)] = 1


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


@post("/organizations", opt=PLATFORM)
async def create_organization(
    data: JSONBody[NewOrganization], context: NamedDependency[ManagementContext]
) -> Response[OrganizationAnswer]:
    made = await organizations.create(
        context.database,
        data.id,
        data.name,
        data.partitions,
        rule=context.default_rule(data.id),
        channel=LOG_CHANNEL,
        make_stream=context.streams.renew_organization,
    )
    # Other processes hear of it by the change feed; this one need not wait for that.
    await context.directory.apply([Change("organization", made.epoch, made.id)])
    return Response(_answer(made), status_code=201, headers={"Location": f"/organizations/{made.id}"})


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
async def read_organization(org: FromPath[str], context: NamedDependency[ManagementContext]) -> OrganizationAnswer:
    return _answer(await context.organization(org))


@delete("/organizations/{org:str}", opt=PLATFORM)
async def delete_organization(
    org: FromPath[str], context: NamedDependency[ManagementContext], confirm: Confirm = None
) -> None:
    """Remove every trace: rows, readings, streams, messages, keys."""
    if confirm != org:
        fault = Fault(f"must be {org!r}, because every trace of the organization is removed", field="confirm")
        raise Rejected("invalid", "the query is not valid", faults=(fault,))
    if not await context.delete_organization(await context.organization(org)):
        raise not_found("organization", org)

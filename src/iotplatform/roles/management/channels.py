"""`/organizations/{org}/channels`."""

from __future__ import annotations

import uuid

from litestar import Response, delete, get, post, put
from litestar.di import NamedDependency
from litestar.openapi.datastructures import ResponseSpec
from litestar.params import FromPath, JSONBody

from iotplatform.adapters.postgres import channels
from iotplatform.adapters.postgres.models import ChannelRow
from iotplatform.domain.channel import Channel
from iotplatform.domain.identifiers import identifier_fault
from iotplatform.errors import Fault, Rejected
from iotplatform.roles.management.access import ADMINISTER, OPERATE, READ
from iotplatform.roles.management.channel_bodies import ChannelBody, check
from iotplatform.roles.management.channel_secrets import SecretsKeeper
from iotplatform.roles.management.channel_tests import TestAttempt, send_test
from iotplatform.roles.management.context import ManagementContext, known_form, not_found
from iotplatform.roles.management.etags import IfMatch, IfNoneMatch, etag, precondition
from iotplatform.roles.management.paging import BY_ID, DEFAULT_LIMIT, Cursor, Limit, Page, decode_cursor, page


@get("/organizations/{org:str}/channels", opt=READ)
async def list_channels(
    org: FromPath[str],
    context: NamedDependency[ManagementContext],
    limit: Limit = DEFAULT_LIMIT,
    cursor: Cursor = None,
) -> Page[Channel]:
    after = decode_cursor(cursor, BY_ID)
    organization = await context.organization(org)
    found = await channels.page(context.database, organization.epoch, limit + 1, after)
    return page(found, limit, lambda channel: channel, lambda last: last.id)


@post("/organizations/{org:str}/channels", opt=ADMINISTER)
async def create_channel(
    org: FromPath[str], data: JSONBody[ChannelBody], context: NamedDependency[ManagementContext]
) -> Response[Channel]:
    channel_id = data.id or str(uuid.uuid4())
    await check(data, channel_id, context.destinations)
    organization = await context.organization(org)
    keeper = SecretsKeeper(context.vault, organization.epoch, channel_id, data)
    channel, sealed = keeper.make(None)
    return _made(organization.id, await channels.add(context.database, organization.epoch, channel, sealed))


@get("/organizations/{org:str}/channels/{channel:str}", opt=READ)
async def read_channel(
    org: FromPath[str], channel: FromPath[str], context: NamedDependency[ManagementContext]
) -> Response[Channel]:
    organization = await context.organization(org)
    found = await channels.find(context.database, organization.epoch, known_form("channel", channel))
    if found is None:
        raise not_found("channel", channel)
    return _shown(found)


@put(
    "/organizations/{org:str}/channels/{channel:str}",
    responses={201: ResponseSpec(Channel, description="made")},
    opt=ADMINISTER,
)
async def put_channel(
    org: FromPath[str],
    channel: FromPath[str],
    data: JSONBody[ChannelBody],
    context: NamedDependency[ManagementContext],
    if_match: IfMatch = None,
    if_none_match: IfNoneMatch = None,
) -> Response[Channel]:
    fault = identifier_fault(channel)
    if fault is not None:
        raise Rejected("invalid", "the id in the path is not valid", faults=(Fault(fault, field="id"),))
    await check(data, channel, context.destinations)
    fits = precondition(if_match, if_none_match).check
    organization = await context.organization(org)
    keeper = SecretsKeeper(context.vault, organization.epoch, channel, data)
    row, made = await channels.put(context.database, organization.epoch, channel, keeper.make, fits)
    return _made(organization.id, row) if made else _shown(row)


@delete("/organizations/{org:str}/channels/{channel:str}", opt=ADMINISTER)
async def delete_channel(
    org: FromPath[str],
    channel: FromPath[str],
    context: NamedDependency[ManagementContext],
    if_match: IfMatch = None,
) -> None:
    fits = precondition(if_match).check
    organization = await context.organization(org)
    if not await channels.remove(context.database, organization.epoch, known_form("channel", channel), fits):
        raise not_found("channel", channel)


@post("/organizations/{org:str}/channels/{channel:str}/test", status_code=200, opt=OPERATE)
async def test_channel(
    org: FromPath[str], channel: FromPath[str], context: NamedDependency[ManagementContext]
) -> TestAttempt:
    """Sends a notification that says it is a test, now and once, and tells how that ended."""
    organization = await context.organization(org)
    row = await channels.find(context.database, organization.epoch, known_form("channel", channel))
    if row is None:
        raise not_found("channel", channel)
    return await send_test(context, organization, row)


def _shown(row: ChannelRow) -> Response[Channel]:
    return Response(channels.channel_of(row), status_code=200, headers={"ETag": etag(row.version)})


def _made(organization_id: str, row: ChannelRow) -> Response[Channel]:
    location = f"/organizations/{organization_id}/channels/{row.id}"
    headers = {"Location": location, "ETag": etag(row.version)}
    return Response(channels.channel_of(row), status_code=201, headers=headers)

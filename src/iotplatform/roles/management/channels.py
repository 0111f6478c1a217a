"""`/organizations/{org}/channels`."""

from __future__ import annotations

import re
import uuid
from typing import Annotated, Final

import msgspec
from litestar import Response, delete, get, post, put
from litestar.di import NamedDependency
from litestar.openapi.datastructures import ResponseSpec
from litestar.params import FromPath, JSONBody

from iotplatform.adapters.postgres import channels
from iotplatform.adapters.postgres.models import ChannelRow
from iotplatform.domain.channel import SEVERITIES, Channel, ChannelConfig, ChannelType
from iotplatform.domain.identifiers import identifier_fault
from iotplatform.domain.rule import Severity
from iotplatform.errors import Fault, Rejected
from iotplatform.roles.management.access import ADMINISTER, READ
from iotplatform.roles.management.context import ManagementContext, known_form, not_found
from iotplatform.roles.management.etags import IfMatch, IfNoneMatch, etag, precondition
from iotplatform.roles.management.fields import Body, Identifier, Name
from iotplatform.roles.management.paging import BY_ID, DEFAULT_LIMIT, Cursor, Limit, Page, decode_cursor, page

# What every mail server takes, and nothing that could end a header line or begin another recipient.
_ADDRESS: Final = re.compile(
    r"[A-Za-z0-9!#$%&'*+/=?^_`{|}~-]+(?:\.[A-Za-z0-9!#$%&'*+/=?^_`{|}~-]+)*"
    r"@[A-Za-z0-9](?:[A-Za-z0-9-]*[A-Za-z0-9])?(?:\.[A-Za-z0-9](?:[A-Za-z0-9-]*[A-Za-z0-9])?)*"
)
MAX_ADDRESS_LENGTH: Final = 254


class ChannelBodyConfig(Body, frozen=True):
    to: Annotated[tuple[str, ...], msgspec.Meta(max_length=100)] = ()


class ChannelBody(Body, frozen=True):
    """A channel as it is to be; the `id` of a replaced one may be repeated."""

    name: Name
    type: ChannelType
    id: Identifier | None = None
    enabled: bool = True
    severities: Annotated[tuple[Severity, ...], msgspec.Meta(min_length=1)] = SEVERITIES
    config: ChannelBodyConfig = ChannelBodyConfig()

    def channel(self, channel_id: str) -> Channel:
        """The channel that is meant.

        Raises:
            Rejected: it could not be used.
        """
        faults = _config_faults(self)
        if self.id not in {None, channel_id}:
            faults.append(Fault("must be the id in the path, or be left out", field="id"))
        if faults:
            raise Rejected("invalid", "the body is not valid", faults=tuple(faults))
        return Channel(
            id=channel_id,
            name=self.name,
            type=self.type,
            enabled=self.enabled,
            severities=tuple(dict.fromkeys(self.severities)),
            config=ChannelConfig(tuple(dict.fromkeys(self.config.to))),
        )


def _config_faults(body: ChannelBody) -> list[Fault]:
    to = body.config.to
    if body.type != "email":
        return [Fault(f"a channel of type {body.type} sends to nobody", field="config.to")] if to else []
    if not to:
        return [Fault("must name at least one address", field="config.to")]
    return [
        Fault("is no mail address such as name@example.org", field=f"config.to[{number}]")
        for number, address in enumerate(to)
        if len(address) > MAX_ADDRESS_LENGTH or not _ADDRESS.fullmatch(address)
    ]


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
    channel = data.channel(data.id or str(uuid.uuid4()))
    organization = await context.organization(org)
    return _made(organization.id, await channels.add(context.database, organization.epoch, channel))


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
    wanted = data.channel(channel)
    check = precondition(if_match, if_none_match).check
    organization = await context.organization(org)
    row, made = await channels.put(context.database, organization.epoch, wanted, check)
    return _made(organization.id, row) if made else _shown(row)


@delete("/organizations/{org:str}/channels/{channel:str}", opt=ADMINISTER)
async def delete_channel(
    org: FromPath[str],
    channel: FromPath[str],
    context: NamedDependency[ManagementContext],
    if_match: IfMatch = None,
) -> None:
    check = precondition(if_match).check
    organization = await context.organization(org)
    if not await channels.remove(context.database, organization.epoch, known_form("channel", channel), check):
        raise not_found("channel", channel)


def _shown(row: ChannelRow) -> Response[Channel]:
    return Response(channels.channel_of(row), status_code=200, headers={"ETag": etag(row.version)})


def _made(organization_id: str, row: ChannelRow) -> Response[Channel]:
    location = f"/organizations/{organization_id}/channels/{row.id}"
    headers = {"Location": location, "ETag": etag(row.version)}
    return Response(channels.channel_of(row), status_code=201, headers=headers)

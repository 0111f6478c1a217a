"""`/organizations/{org}/retention`, and that of a device."""

from __future__ import annotations

import msgspec
from litestar import Response, get, put
from litestar.di import NamedDependency
from litestar.params import FromPath, JSONBody

from iotplatform.adapters.postgres import devices, retention
from iotplatform.adapters.postgres.models import DeviceRetentionRow, RetentionRow
from iotplatform.domain.organization import Organization
from iotplatform.domain.retention import Retention
from iotplatform.roles.management.access import ADMINISTER, READ
from iotplatform.roles.management.context import ManagementContext, known_form, not_found
from iotplatform.roles.management.etags import IfMatch, etag, precondition


@get("/organizations/{org:str}/retention", opt=READ)
async def read_retention(org: FromPath[str], context: NamedDependency[ManagementContext]) -> Response[Retention]:
    organization = await context.organization(org)
    return _shown(await retention.find(context.database, organization.epoch))


@put("/organizations/{org:str}/retention", opt=ADMINISTER)
async def put_retention(
    org: FromPath[str],
    data: JSONBody[Retention],
    context: NamedDependency[ManagementContext],
    if_match: IfMatch = None,
) -> Response[Retention]:
    """What is left out is kept for ever. Readings that are older than this says are removed within an hour."""
    expected = precondition(if_match)
    organization = await context.organization(org)
    definition = msgspec.to_builtins(data)
    return _shown(await retention.put(context.database, organization.epoch, definition, expected.check))


@get("/organizations/{org:str}/devices/{device:str}/retention", opt=READ)
async def read_device_retention(
    org: FromPath[str], device: FromPath[str], context: NamedDependency[ManagementContext]
) -> Response[Retention]:
    organization = await _with_device(context, org, device)
    return _shown(await retention.find_of_device(context.database, organization.epoch, device))


@put("/organizations/{org:str}/devices/{device:str}/retention", opt=ADMINISTER)
async def put_device_retention(
    org: FromPath[str],
    device: FromPath[str],
    data: JSONBody[Retention],
    context: NamedDependency[ManagementContext],
    if_match: IfMatch = None,
) -> Response[Retention]:
    """What is left out is as the organization's retention says."""
    expected = precondition(if_match)
    organization = await _with_device(context, org, device)
    definition = msgspec.to_builtins(data)
    return _shown(
        await retention.put_of_device(context.database, organization.epoch, device, definition, expected.check)
    )


async def _with_device(context: ManagementContext, org: str, device: str) -> Organization:
    organization = await context.organization(org)
    if await devices.find(context.database, organization.epoch, known_form("device", device)) is None:
        raise not_found("device", device)
    return organization


def _shown(row: RetentionRow | DeviceRetentionRow | None) -> Response[Retention]:
    """No ETag before anything was said: there is no version to be expected."""
    said = Retention() if row is None else msgspec.convert(row.definition, Retention)
    return Response(said, status_code=200, headers={} if row is None else {"ETag": etag(row.version)})

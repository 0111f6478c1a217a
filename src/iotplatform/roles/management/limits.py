"""`/organizations/{org}/limits`, and those of a device."""

from __future__ import annotations

from typing import Any

import msgspec
from litestar import Response, get, put
from litestar.di import NamedDependency
from litestar.params import FromPath, JSONBody

from iotplatform.adapters.postgres import devices, limits
from iotplatform.adapters.postgres.changes import Change
from iotplatform.adapters.postgres.limits import LimitBook
from iotplatform.domain.limit import DeviceLimits, Limits, OwnLimits, rate_faults
from iotplatform.domain.organization import Organization
from iotplatform.errors import Fault, Rejected
from iotplatform.roles.management.access import ADMINISTER, PLATFORM, READ
from iotplatform.roles.management.context import ManagementContext, known_form, not_found
from iotplatform.roles.management.etags import IfMatch, etag, precondition


class LimitsAnswer(msgspec.Struct, frozen=True):
    """`own` is what was set for this organization, `effective` that over the settings, `used` what it has."""

    own: dict[str, Any]
    effective: dict[str, Any]
    used: dict[str, int]


class DeviceLimitsAnswer(msgspec.Struct, frozen=True):
    own: dict[str, Any]
    effective: dict[str, Any]


@get("/organizations/{org:str}/limits", opt=READ)
async def read_limits(org: FromPath[str], context: NamedDependency[ManagementContext]) -> Response[LimitsAnswer]:
    organization = await context.organization(org)
    row = await limits.find(context.database, organization.epoch)
    return await _shown(context, organization, row.definition if row else {}, row.version if row else 0)


@put("/organizations/{org:str}/limits", opt=PLATFORM)
async def put_limits(
    org: FromPath[str],
    data: JSONBody[OwnLimits],
    context: NamedDependency[ManagementContext],
    if_match: IfMatch = None,
) -> Response[LimitsAnswer]:
    """What is left out is as the settings say. More than a quota allows stays; nothing can be added to it."""
    _check(data)
    expected = precondition(if_match)
    organization = await context.organization(org)
    definition = msgspec.to_builtins(data)
    row, _ = await limits.put(context.database, organization.epoch, definition, expected.check)
    await context.limit_books.apply([Change("limit", organization.epoch, "")])
    await context.streams.resize_organization(organization.id, data.stream_bytes)
    return await _shown(context, organization, row.definition, row.version)


@get("/organizations/{org:str}/devices/{device:str}/limits", opt=READ)
async def read_device_limits(
    org: FromPath[str], device: FromPath[str], context: NamedDependency[ManagementContext]
) -> Response[DeviceLimitsAnswer]:
    organization = await _with_device(context, org, device)
    row = await limits.find_of_device(context.database, organization.epoch, device)
    return await _device_shown(context, organization, device, row.definition if row else {}, row.version if row else 0)


@put("/organizations/{org:str}/devices/{device:str}/limits", opt=ADMINISTER)
async def put_device_limits(
    org: FromPath[str],
    device: FromPath[str],
    data: JSONBody[DeviceLimits],
    context: NamedDependency[ManagementContext],
    if_match: IfMatch = None,
) -> Response[DeviceLimitsAnswer]:
    """What is left out is as the organization's `device_requests` and `device_readings` say."""
    _check(data)
    expected = precondition(if_match)
    organization = await _with_device(context, org, device)
    definition = msgspec.to_builtins(data)
    row, _ = await limits.put_of_device(context.database, organization.epoch, device, definition, expected.check)
    await context.limit_books.apply([Change("device_limit", organization.epoch, device)])
    return await _device_shown(context, organization, device, row.definition, row.version)


def _check(wanted: Limits | DeviceLimits) -> None:
    faults = tuple(Fault(sentence, field=name) for name, sentence in rate_faults(wanted))
    if faults:
        raise Rejected("invalid", "the body is not valid", faults=faults)


async def _with_device(context: ManagementContext, org: str, device: str) -> Organization:
    organization = await context.organization(org)
    if await devices.find(context.database, organization.epoch, known_form("device", device)) is None:
        raise not_found("device", device)
    return organization


async def _shown(
    context: ManagementContext, organization: Organization, own: dict[str, Any], version: int
) -> Response[LimitsAnswer]:
    effective = msgspec.convert(own, OwnLimits).over(context.limits)
    used = await limits.count(context.database, organization.epoch)
    answer = LimitsAnswer(own, msgspec.to_builtins(effective), used)
    return Response(answer, status_code=200, headers=_tag(version))


async def _device_shown(
    context: ManagementContext, organization: Organization, device_id: str, own: dict[str, Any], version: int
) -> Response[DeviceLimitsAnswer]:
    book: LimitBook = await context.limit_books.book(organization.epoch)
    requests, readings = (",".join(map(str, rates)) for rates in book.of_device(device_id))
    effective = {name: text for name, text in (("requests", requests), ("readings", readings)) if text}
    return Response(DeviceLimitsAnswer(own, effective), status_code=200, headers=_tag(version))


def _tag(version: int) -> dict[str, str]:
    """None before anything was set: there is no version to be expected."""
    return {"ETag": etag(version)} if version else {}

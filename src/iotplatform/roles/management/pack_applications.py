"""`/rule-packs/{pack}/organizations`: who has a pack, and in which version."""

from __future__ import annotations

from typing import Literal

import msgspec
from litestar import Response, delete, get, put
from litestar.di import NamedDependency
from litestar.openapi.datastructures import ResponseSpec
from litestar.params import FromPath

from iotplatform.adapters.postgres import rule_pack_changes, rule_packs
from iotplatform.adapters.postgres.changes import Change
from iotplatform.adapters.postgres.rule_packs import Application
from iotplatform.domain.principal import Principal
from iotplatform.domain.timestamps import format_timestamp
from iotplatform.roles.management.access import PLATFORM
from iotplatform.roles.management.context import ManagementContext, known_form, not_found
from iotplatform.roles.management.paging import BY_ID, DEFAULT_LIMIT, Cursor, Limit, Page, decode_cursor, page


class ApplicationAnswer(msgspec.Struct, frozen=True):
    """`version` is the pack's that the organization has. `pending` ends by itself, `failed` does not: see `fault`."""

    organization_id: str
    version: int
    state: Literal["applied", "pending", "failed"]
    fault: str | None
    updated_at: str


@get("/rule-packs/{pack:str}/organizations", opt=PLATFORM)
async def list_applications(
    pack: FromPath[str],
    context: NamedDependency[ManagementContext],
    limit: Limit = DEFAULT_LIMIT,
    cursor: Cursor = None,
) -> Page[ApplicationAnswer]:
    after = decode_cursor(cursor, BY_ID)
    pack_id = known_form("rule pack", pack)
    found = await rule_packs.applications(context.database, pack_id, limit + 1, after)
    if not found and await rule_packs.find(context.database, pack_id) is None:
        raise not_found("rule pack", pack)
    return page(found, limit, _answer, lambda last: last.organization_id)


@get("/rule-packs/{pack:str}/organizations/{org:str}", opt=PLATFORM)
async def read_application(
    pack: FromPath[str], org: FromPath[str], context: NamedDependency[ManagementContext]
) -> ApplicationAnswer:
    await context.organization(org)
    return await _read(context, pack, org)


@put(
    "/rule-packs/{pack:str}/organizations/{org:str}",
    opt=PLATFORM,
    responses={201: ResponseSpec(ApplicationAnswer, description="applied for the first time")},
)
async def apply_pack(
    pack: FromPath[str],
    org: FromPath[str],
    context: NamedDependency[ManagementContext],
    principal: NamedDependency[Principal],
) -> Response[ApplicationAnswer]:
    """Give the organization the pack's rules, now and as they change; again after a `failed` that was put right."""
    organization = await context.organization(org)
    pack_id = known_form("rule pack", pack)
    made = await rule_pack_changes.apply(context.database, pack_id, organization.epoch, organization.id, principal.name)
    if made is None:
        raise not_found("rule pack", pack)
    await context.directory.apply([Change("rule", organization.epoch, "")])
    found = await _read(context, pack_id, org)
    headers = {"Location": f"/rule-packs/{pack_id}/organizations/{org}"} if made else {}
    return Response(found, status_code=201 if made else 200, headers=headers)


@delete("/rule-packs/{pack:str}/organizations/{org:str}", opt=PLATFORM)
async def detach_pack(
    pack: FromPath[str],
    org: FromPath[str],
    context: NamedDependency[ManagementContext],
    principal: NamedDependency[Principal],
) -> None:
    """Its rules go, and their active alarms are cleared."""
    organization = await context.organization(org)
    pack_id = known_form("rule pack", pack)
    if not await rule_pack_changes.detach(context.database, pack_id, organization.epoch, principal.name):
        raise not_found("rule pack in this organization", pack)
    await context.directory.apply([Change("rule", organization.epoch, "")])


async def _read(context: ManagementContext, pack: str, org: str) -> ApplicationAnswer:
    found = await rule_packs.applications(context.database, known_form("rule pack", pack), 1, None, org)
    if not found:
        raise not_found("rule pack in this organization", pack)
    return _answer(found[0])


def _answer(found: Application) -> ApplicationAnswer:
    state: Literal["applied", "pending", "failed"] = "applied"
    if found.version != found.pack_version:
        state = "pending" if found.fault is None else "failed"
    return ApplicationAnswer(
        found.organization_id, found.version, state, found.fault, format_timestamp(found.updated_at)
    )

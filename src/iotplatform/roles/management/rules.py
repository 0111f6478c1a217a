"""`/organizations/{org}/rules`."""

from __future__ import annotations

from typing import Annotated, Final

import msgspec
from litestar import Response, delete, get, post, put
from litestar.di import NamedDependency
from litestar.openapi.datastructures import ResponseSpec
from litestar.params import FromPath, JSONBody, QueryParameter

from iotplatform.adapters.postgres import rule_changes, rules
from iotplatform.adapters.postgres.changes import Change
from iotplatform.adapters.postgres.rules import RuleFilter, RuleVersion, StoredRule
from iotplatform.domain.identifiers import identifier_fault
from iotplatform.domain.organization import Organization
from iotplatform.domain.precondition import tag_within
from iotplatform.domain.principal import Principal
from iotplatform.domain.rule import Severity
from iotplatform.domain.timestamps import format_timestamp
from iotplatform.errors import Fault, Rejected
from iotplatform.roles.management.access import ADMINISTER, READ
from iotplatform.roles.management.context import ManagementContext, known_form, not_found
from iotplatform.roles.management.etags import IfMatch, IfNoneMatch, etag, precondition
from iotplatform.roles.management.paging import (
    BY_ID,
    BY_PLACE,
    DEFAULT_LIMIT,
    Cursor,
    Limit,
    Page,
    decode_cursor,
    page,
)
from iotplatform.roles.management.parameters import check_text
from iotplatform.roles.management.rule_bodies import RuleAnswer, RuleBody, answer

MAX_VERSION: Final = 1 << 31

Enabled = Annotated[bool | None, QueryParameter(description="only those that are enabled, or are not")]
Severities = Annotated[list[Severity] | None, QueryParameter(name="severity", description="only these; repeatable")]
Pack = Annotated[str | None, QueryParameter(description="only those of this rule pack")]
Text = Annotated[str | None, QueryParameter(name="q", description="what the id or the name contains")]


class RuleVersionAnswer(msgspec.Struct, frozen=True):
    """`rule` is what the rule was from then on, and null where it was `deleted`."""

    version: int
    changed_at: str
    changed_by: str | None
    deleted: bool
    rule: RuleAnswer | None


@get("/organizations/{org:str}/rules", opt=READ)
async def list_rules(
    org: FromPath[str],
    context: NamedDependency[ManagementContext],
    *,
    enabled: Enabled = None,
    severities: Severities = None,
    pack: Pack = None,
    text: Text = None,
    limit: Limit = DEFAULT_LIMIT,
    cursor: Cursor = None,
) -> Page[RuleAnswer]:
    check_text("pack", [pack] if pack is not None else None)
    check_text("q", [text] if text is not None else None)
    wanted = RuleFilter(enabled, tuple(severities or ()), pack, text)
    after = decode_cursor(cursor, BY_ID)
    organization = await context.organization(org)
    found = await rules.page(context.database, organization.epoch, limit + 1, after, wanted)
    return page(found, limit, lambda known: answer(known.rule, known.pack_id), lambda last: last.rule.id)


@post("/organizations/{org:str}/rules", opt=ADMINISTER)
async def create_rule(
    org: FromPath[str],
    data: JSONBody[RuleBody],
    context: NamedDependency[ManagementContext],
    principal: NamedDependency[Principal],
) -> Response[RuleAnswer]:
    rule = data.rule(org)
    organization = await context.organization(org)
    made = await rule_changes.add(context.database, organization.epoch, rule, principal.name)
    await _tell(context, organization, rule.id)
    return _response(organization, made, 201)


@get("/organizations/{org:str}/rules/{rule:str}", opt=READ)
async def read_rule(
    org: FromPath[str], rule: FromPath[str], context: NamedDependency[ManagementContext]
) -> Response[RuleAnswer]:
    organization = await context.organization(org)
    return _response(organization, await find_rule(context, organization, rule), 200)


@put(
    "/organizations/{org:str}/rules/{rule:str}",
    opt=ADMINISTER,
    responses={201: ResponseSpec(RuleAnswer, description="made")},
)
async def put_rule(
    org: FromPath[str],
    rule: FromPath[str],
    data: JSONBody[RuleBody],
    context: NamedDependency[ManagementContext],
    principal: NamedDependency[Principal],
    *,
    if_match: IfMatch = None,
    if_none_match: IfNoneMatch = None,
) -> Response[RuleAnswer]:
    expected = precondition(if_match, if_none_match)
    if fault := identifier_fault(rule):
        raise Rejected("invalid", "the id in the path is not valid", faults=(Fault(fault, field="id"),))
    wanted = data.rule(org, rule)
    organization = await context.organization(org)
    expected = expected.within(organization.epoch)
    stored, made = await rule_changes.put(context.database, organization.epoch, wanted, principal.name, expected)
    await _tell(context, organization, rule)
    return _response(organization, stored, 201 if made else 200)


@delete("/organizations/{org:str}/rules/{rule:str}", opt=ADMINISTER)
async def delete_rule(
    org: FromPath[str],
    rule: FromPath[str],
    context: NamedDependency[ManagementContext],
    principal: NamedDependency[Principal],
    if_match: IfMatch = None,
) -> None:
    """Its active alarms are cleared, and its history stays."""
    expected = precondition(if_match)
    organization = await context.organization(org)
    expected = expected.within(organization.epoch)
    rule_id = known_form("rule", rule)
    if not await rule_changes.remove(context.database, organization.epoch, rule_id, principal.name, expected):
        raise not_found("rule", rule)
    await _tell(context, organization, rule)


@post("/organizations/{org:str}/rules/{rule:str}/enable", opt=ADMINISTER, status_code=200)
async def enable_rule(
    org: FromPath[str],
    rule: FromPath[str],
    context: NamedDependency[ManagementContext],
    principal: NamedDependency[Principal],
    if_match: IfMatch = None,
) -> Response[RuleAnswer]:
    return await _switch(context, org, rule, principal, if_match, on=True)


@post("/organizations/{org:str}/rules/{rule:str}/disable", opt=ADMINISTER, status_code=200)
async def disable_rule(
    org: FromPath[str],
    rule: FromPath[str],
    context: NamedDependency[ManagementContext],
    principal: NamedDependency[Principal],
    if_match: IfMatch = None,
) -> Response[RuleAnswer]:
    """Its active alarms are cleared. A rule of a rule pack is disabled in this organization only."""
    return await _switch(context, org, rule, principal, if_match, on=False)


@get("/organizations/{org:str}/rules/{rule:str}/versions", opt=READ)
async def list_rule_versions(
    org: FromPath[str],
    rule: FromPath[str],
    context: NamedDependency[ManagementContext],
    limit: Limit = DEFAULT_LIMIT,
    cursor: Cursor = None,
) -> Page[RuleVersionAnswer]:
    """The newest first; also of a rule that was deleted."""
    before = decode_cursor(cursor, BY_PLACE)
    organization = await context.organization(org)
    rule_id = known_form("rule", rule)
    found = await rules.versions(context.database, organization.epoch, rule_id, limit + 1, before)
    if not found and before is None:
        raise not_found("rule", rule)
    return page(found, limit, _version_answer, lambda last: last.version)


@get("/organizations/{org:str}/rules/{rule:str}/versions/{version:int}", opt=READ)
async def read_rule_version(
    org: FromPath[str], rule: FromPath[str], version: FromPath[int], context: NamedDependency[ManagementContext]
) -> RuleVersionAnswer:
    organization = await context.organization(org)
    rule_id = known_form("rule", rule)
    found = None
    if 0 < version < MAX_VERSION:
        found = await rules.version(context.database, organization.epoch, rule_id, version)
    if found is None:
        raise not_found("version", str(version))
    return _version_answer(found)


async def find_rule(context: ManagementContext, organization: Organization, rule_id: str) -> StoredRule:
    """A rule that a path names.

    Raises:
        Rejected: there is none.
    """
    found = await rules.find(context.database, organization.epoch, known_form("rule", rule_id))
    if found is None:
        raise not_found("rule", rule_id)
    return found


async def _switch(
    context: ManagementContext, org: str, rule: str, principal: Principal, if_match: str | None, *, on: bool
) -> Response[RuleAnswer]:
    expected = precondition(if_match)
    organization = await context.organization(org)
    expected = expected.within(organization.epoch)
    rule_id = known_form("rule", rule)
    stored = await rule_changes.switch(context.database, organization.epoch, rule_id, principal.name, expected, on=on)
    if stored is None:
        raise not_found("rule", rule)
    await _tell(context, organization, rule)
    return _response(organization, stored, 200)


async def _tell(context: ManagementContext, organization: Organization, rule_id: str) -> None:
    """Other processes hear of it by the change feed; this one need not wait for that."""
    await context.directory.apply([Change("rule", organization.epoch, rule_id)])


def _response(organization: Organization, stored: StoredRule, status_code: int) -> Response[RuleAnswer]:
    headers = {"ETag": etag(tag_within(organization.epoch, stored.version))}
    if status_code == 201:
        headers["Location"] = f"/organizations/{organization.id}/rules/{stored.rule.id}"
    return Response(answer(stored.rule, stored.pack_id), status_code=status_code, headers=headers)


def _version_answer(found: RuleVersion) -> RuleVersionAnswer:
    rule = None if found.rule is None else answer(found.rule, found.pack_id)
    return RuleVersionAnswer(found.version, format_timestamp(found.changed_at), found.changed_by, rule is None, rule)

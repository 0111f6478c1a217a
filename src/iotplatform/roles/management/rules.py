"""`/organizations/{org}/rules`."""

from __future__ import annotations

from litestar import get
from litestar.di import NamedDependency
from litestar.params import FromPath

from iotplatform.adapters.postgres import rules
from iotplatform.domain.rule import Rule
from iotplatform.roles.management.access import READ
from iotplatform.roles.management.context import ManagementContext, known_form, not_found
from iotplatform.roles.management.paging import BY_ID, DEFAULT_LIMIT, Cursor, Limit, Page, decode_cursor, page


@get("/organizations/{org:str}/rules", opt=READ)
async def list_rules(
    org: FromPath[str],
    context: NamedDependency[ManagementContext],
    limit: Limit = DEFAULT_LIMIT,
    cursor: Cursor = None,
) -> Page[Rule]:
    after = decode_cursor(cursor, BY_ID)
    organization = await context.organization(org)
    found = await rules.page(context.database, organization.epoch, limit + 1, after)
    return page(found, limit, lambda rule: rule, lambda last: last.id)


@get("/organizations/{org:str}/rules/{rule:str}", opt=READ)
async def read_rule(org: FromPath[str], rule: FromPath[str], context: NamedDependency[ManagementContext]) -> Rule:
    organization = await context.organization(org)
    found = await rules.find(context.database, organization.epoch, known_form("rule", rule))
    if found is None:
        raise not_found("rule", rule)
    return found

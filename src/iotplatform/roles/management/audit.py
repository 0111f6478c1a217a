"""`/organizations/{org}/audit`, and `/audit` for the platform as a whole."""

from __future__ import annotations

from typing import Annotated, Any

import msgspec
from litestar import get
from litestar.di import NamedDependency
from litestar.params import FromPath, QueryParameter

from iotplatform.adapters.postgres import audit
from iotplatform.adapters.postgres.audit import AuditFilter
from iotplatform.adapters.postgres.models import AuditRow
from iotplatform.domain.timestamps import format_timestamp, to_datetime, to_microseconds
from iotplatform.roles.management.access import ADMINISTER, PLATFORM
from iotplatform.roles.management.context import ManagementContext
from iotplatform.roles.management.paging import BY_PLACE, DEFAULT_LIMIT, Cursor, Limit, Page, decode_cursor, page
from iotplatform.roles.management.parameters import From, To, check_text, parse_time

Who = Annotated[str | None, QueryParameter(name="actor", description="the name of who did it")]
Action = Annotated[str | None, QueryParameter(description="created, changed, deleted, or what a request was to do")]
SubjectKind = Annotated[str | None, QueryParameter(name="kind", description="device, rule, channel, …")]
Subject = Annotated[str | None, QueryParameter(description="the id of the thing")]
OfOrganization = Annotated[str | None, QueryParameter(description="also one that was deleted")]


class AuditEntry(msgspec.Struct, frozen=True):
    """`old` and `new` hold what differs, without secrets; `request` is the same for all that one request changed."""

    id: str
    at: str
    organization_id: str | None
    actor: str
    actor_kind: str
    address: str | None
    request: str | None
    action: str
    kind: str
    subject: str
    old: dict[str, Any] | None
    new: dict[str, Any] | None


@get("/organizations/{org:str}/audit", opt=ADMINISTER)
async def list_audit(
    org: FromPath[str],
    context: NamedDependency[ManagementContext],
    *,
    actor: Who = None,
    action: Action = None,
    kind: SubjectKind = None,
    subject: Subject = None,
    since: From = None,
    until: To = None,
    limit: Limit = DEFAULT_LIMIT,
    cursor: Cursor = None,
) -> Page[AuditEntry]:
    """The newest first. What an earlier organization of this id went through is not its own."""
    wanted = _filter(actor, action, kind, subject, since, until)
    after = decode_cursor(cursor, BY_PLACE)
    organization = await context.organization(org)
    found = await audit.page(context.database, organization.epoch, limit + 1, after, wanted)
    return page(found, limit, _entry, lambda last: last.id)


@get("/audit", opt=PLATFORM)
async def list_platform_audit(
    context: NamedDependency[ManagementContext],
    *,
    organization_id: OfOrganization = None,
    actor: Who = None,
    action: Action = None,
    kind: SubjectKind = None,
    subject: Subject = None,
    since: From = None,
    until: To = None,
    limit: Limit = DEFAULT_LIMIT,
    cursor: Cursor = None,
) -> Page[AuditEntry]:
    """The newest first, of everything there is and was."""
    wanted = _filter(actor, action, kind, subject, since, until)
    check_text("organization_id", [organization_id] if organization_id else [])
    wanted = msgspec.structs.replace(wanted, organization_id=organization_id)
    after = decode_cursor(cursor, BY_PLACE)
    found = await audit.page(context.database, None, limit + 1, after, wanted)
    return page(found, limit, _entry, lambda last: last.id)


def _filter(
    actor: str | None, action: str | None, kind: str | None, subject: str | None, since: str | None, until: str | None
) -> AuditFilter:
    for name, text in (("actor", actor), ("action", action), ("kind", kind), ("subject", subject)):
        check_text(name, [text] if text else [])
    start, end = parse_time("from", since), parse_time("to", until)
    return AuditFilter(
        actor=actor,
        action=action,
        kind=kind,
        subject=subject,
        since=None if start is None else to_datetime(start),
        until=None if end is None else to_datetime(end),
    )


def _entry(row: AuditRow) -> AuditEntry:
    return AuditEntry(
        id=str(row.id),
        at=format_timestamp(to_microseconds(row.at)),
        organization_id=row.organization_id,
        actor=row.actor,
        actor_kind=row.actor_kind,
        address=row.address,
        request=None if row.request is None else str(row.request),
        action=row.action,
        kind=row.kind,
        subject=row.subject,
        old=row.old,
        new=row.new,
    )

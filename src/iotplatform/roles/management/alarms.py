"""`/organizations/{org}/alarms`."""

from __future__ import annotations

import datetime as dt
import uuid
from typing import Annotated, Any, Literal

import msgspec
from litestar import get
from litestar.di import NamedDependency
from litestar.params import FromPath, QueryParameter

from iotplatform.adapters.postgres import alarms
from iotplatform.adapters.postgres.alarms import AlarmFilter
from iotplatform.adapters.postgres.models import AlarmEventRow, AlarmRow
from iotplatform.domain.organization import Organization
from iotplatform.domain.rule import Severity
from iotplatform.domain.timestamps import format_timestamp, to_datetime, to_microseconds
from iotplatform.roles.management.access import READ
from iotplatform.roles.management.context import ManagementContext, not_found
from iotplatform.roles.management.paging import (
    BY_PLACE,
    DEFAULT_LIMIT,
    Cursor,
    Limit,
    Page,
    decode_cursor,
    decode_time_cursor,
    page,
    time_place,
)
from iotplatform.roles.management.parameters import (
    DeviceIds,
    From,
    To,
    check_device_ids,
    check_rule_ids,
    check_sensors,
    check_text,
    parse_time,
)

Severities = Annotated[list[Severity] | None, QueryParameter(description="only these severities; repeatable")]

Acknowledged = Annotated[bool | None, QueryParameter(description="only those that somebody has acknowledged, or not")]
Assignees = Annotated[list[str] | None, QueryParameter(description="only those assigned to one of these; repeatable")]
RuleIds = Annotated[list[str] | None, QueryParameter(description="only those of these rules; repeatable")]
Sensors = Annotated[list[str] | None, QueryParameter(description="only those of these sensors; repeatable")]

# `state` itself means something else to Litestar.
AlarmState = Annotated[Literal["active", "cleared"] | None, QueryParameter(name="state")]


class Evidence(msgspec.Struct, frozen=True):
    timestamp: str
    value: float


class AlarmAnswer(msgspec.Struct, frozen=True):
    """Times are those of readings, but for `created_at`, `acknowledged_at` and `snoozed_until`.

    A `latched` one is cleared by hand only. `timeline` is where the list of all that happened to it is found.
    """

    id: str
    rule_id: str
    rule_name: str
    condition: str
    device_id: str
    sensor: str
    severity: str
    state: str
    latched: bool
    raised_at: str
    first_breach_at: str
    cleared_at: str | None
    clear_reason: str | None
    acknowledged_at: str | None
    acknowledged_by: str | None
    assigned_to: str | None
    trigger_value: float
    readings: list[Evidence]
    created_at: str
    snoozed_until: str | None
    timeline: str


class TimelineEntry(msgspec.Struct, frozen=True):
    """`by` is None for what the platform did; `at` is the server's time. What `detail` holds depends on the event."""

    at: str
    event: str
    by: str | None
    detail: dict[str, Any]


@get("/organizations/{org:str}/alarms", opt=READ)
async def list_alarms(
    org: FromPath[str],
    context: NamedDependency[ManagementContext],
    *,
    device_id: DeviceIds = None,
    severity: Severities = None,
    alarm_state: AlarmState = None,
    since: From = None,
    until: To = None,
    acknowledged: Acknowledged = None,
    assigned_to: Assignees = None,
    rule_id: RuleIds = None,
    sensor: Sensors = None,
    limit: Limit = DEFAULT_LIMIT,
    cursor: Cursor = None,
) -> Page[AlarmAnswer]:
    start, end = parse_time("from", since), parse_time("to", until)
    wanted = AlarmFilter(
        state=alarm_state,
        device_ids=check_device_ids(device_id),
        severities=tuple(severity or ()),
        since=None if start is None else to_datetime(start),
        until=None if end is None else to_datetime(end),
        acknowledged=acknowledged,
        assigned_to=check_text("assigned_to", assigned_to),
        rule_ids=check_rule_ids(rule_id),
        sensors=check_sensors(sensor),
    )
    after = decode_time_cursor(cursor)
    organization = await context.organization(org)
    found = await alarms.page(context.database, organization.epoch, limit + 1, after, wanted)
    return page(
        found, limit, lambda row: alarm_answer(organization.id, row), lambda last: time_place(last.raised_at, last.id)
    )


@get("/organizations/{org:str}/alarms/{alarm:uuid}", opt=READ)
async def read_alarm(
    org: FromPath[str], alarm: FromPath[uuid.UUID], context: NamedDependency[ManagementContext]
) -> AlarmAnswer:
    organization = await context.organization(org)
    return alarm_answer(organization.id, await found_alarm(context, organization, alarm))


@get("/organizations/{org:str}/alarms/{alarm:uuid}/timeline", opt=READ)
async def read_timeline(
    org: FromPath[str],
    alarm: FromPath[uuid.UUID],
    context: NamedDependency[ManagementContext],
    limit: Limit = DEFAULT_LIMIT,
    cursor: Cursor = None,
) -> Page[TimelineEntry]:
    """All that happened to an alarm, in that order."""
    after = decode_cursor(cursor, BY_PLACE)
    organization = await context.organization(org)
    await found_alarm(context, organization, alarm)
    found = await alarms.timeline(context.database, organization.epoch, alarm, limit + 1, after)
    return page(found, limit, _entry, lambda last: last.id)


async def found_alarm(context: ManagementContext, organization: Organization, alarm_id: uuid.UUID) -> AlarmRow:
    """The alarm of a request.

    Raises:
        Rejected: the organization has none of this id.
    """
    row = await alarms.find(context.database, organization.epoch, alarm_id)
    if row is None:
        raise not_found("alarm", str(alarm_id))
    return row


def _entry(row: AlarmEventRow) -> TimelineEntry:
    return TimelineEntry(format_timestamp(to_microseconds(row.at)), row.kind, row.who, row.detail)


def alarm_answer(organization_id: str, row: AlarmRow) -> AlarmAnswer:
    return AlarmAnswer(
        id=str(row.id),
        rule_id=row.rule_id,
        rule_name=row.rule_name,
        condition=row.condition,
        device_id=row.device_id,
        sensor=row.sensor,
        severity=row.severity,
        state=row.state,
        latched=row.latched,
        raised_at=format_timestamp(to_microseconds(row.raised_at)),
        first_breach_at=format_timestamp(to_microseconds(row.first_breach_at)),
        cleared_at=_optional(row.cleared_at),
        clear_reason=row.clear_reason,
        acknowledged_at=_optional(row.acknowledged_at),
        acknowledged_by=row.acknowledged_by,
        assigned_to=row.assigned_to,
        trigger_value=row.trigger_value,
        # PostgreSQL writes 1e300 as a whole number.
        readings=[Evidence(format_timestamp(at), float(value)) for at, value in row.readings],
        created_at=format_timestamp(to_microseconds(row.created_at)),
        snoozed_until=_optional(row.snoozed_until),
        timeline=f"/organizations/{organization_id}/alarms/{row.id}/timeline",
    )


def _optional(moment: dt.datetime | None) -> str | None:
    return None if moment is None else format_timestamp(to_microseconds(moment))

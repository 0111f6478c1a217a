"""What people do about alarms: `…/alarms/{alarm}/acknowledge`, `/assign`, `/clear`, `/comment`, `/snooze`."""

from __future__ import annotations

import uuid
from typing import Annotated, Final, Literal

import msgspec
from litestar import post
from litestar.di import NamedDependency
from litestar.params import FromPath, JSONBody

from iotplatform.adapters.postgres import alarms
from iotplatform.adapters.postgres.alarm_actions import AlarmActions
from iotplatform.adapters.postgres.alarms import AlarmFilter
from iotplatform.domain.control import ClearAlarm
from iotplatform.domain.organization import Organization
from iotplatform.domain.principal import Principal
from iotplatform.domain.rule import Severity
from iotplatform.domain.timestamps import format_timestamp, to_datetime
from iotplatform.errors import Fault, Rejected
from iotplatform.roles.management.access import OPERATE
from iotplatform.roles.management.alarms import AlarmAnswer, alarm_answer, found_alarm
from iotplatform.roles.management.context import ManagementContext
from iotplatform.roles.management.fields import Body, Identifier, Moment, Name, parsed_moment
from iotplatform.roles.management.requests import PROSE_PATTERN, TEXT_PATTERN
from iotplatform.runtime.clock import now_us

MAX_AT_ONCE: Final = 1_000
LONGEST_SNOOZE_US: Final = 366 * 86_400 * 1_000_000

Comment = Annotated[str, msgspec.Meta(min_length=1, max_length=4_000, pattern=PROSE_PATTERN)]
Sensor = Annotated[str, msgspec.Meta(min_length=1, max_length=512, pattern=TEXT_PATTERN)]


class RemarkBody(Body, frozen=True):
    comment: Comment | None = None


class AssignBody(Body, frozen=True):
    """To nobody with null."""

    assigned_to: Name | None


class CommentBody(Body, frozen=True):
    comment: Comment


class SnoozeBody(Body, frozen=True):
    """Until a time, RFC 3339 or an epoch number; null ends it."""

    until: Moment | None


class WantedAlarms(Body, frozen=True):
    """As in the list of alarms; several values mean any of them."""

    state: Literal["active", "cleared"] | None = None
    device_id: Annotated[tuple[Identifier, ...], msgspec.Meta(max_length=MAX_AT_ONCE)] = ()
    severity: tuple[Severity, ...] = ()
    rule_id: Annotated[tuple[Identifier, ...], msgspec.Meta(max_length=MAX_AT_ONCE)] = ()
    sensor: Annotated[tuple[Sensor, ...], msgspec.Meta(max_length=MAX_AT_ONCE)] = ()
    assigned_to: Annotated[tuple[Name, ...], msgspec.Meta(max_length=MAX_AT_ONCE)] = ()
    since: Moment | None = msgspec.field(name="from", default=None)
    until: Moment | None = msgspec.field(name="to", default=None)

    def alarms(self) -> AlarmFilter:
        start = None if self.since is None else parsed_moment("filter.from", self.since)
        end = None if self.until is None else parsed_moment("filter.to", self.until)
        return AlarmFilter(
            state=self.state,
            device_ids=self.device_id,
            severities=self.severity,
            since=None if start is None else to_datetime(start),
            until=None if end is None else to_datetime(end),
            assigned_to=self.assigned_to,
            rule_ids=self.rule_id,
            sensors=self.sensor,
        )


class AcknowledgeManyBody(Body, frozen=True):
    """Either `ids` or a `filter`; an empty filter means all."""

    ids: Annotated[list[uuid.UUID], msgspec.Meta(min_length=1, max_length=MAX_AT_ONCE)] | None = None
    filter: WantedAlarms | None = None
    comment: Comment | None = None


class AcknowledgedMany(msgspec.Struct, frozen=True):
    """`acknowledged` are those that this request acknowledged, `already` those that somebody had before.

    `more`: the filter fits others; the same request again takes the next ones.
    """

    acknowledged: list[str]
    already: list[str]
    unknown: list[str]
    more: bool


NOTHING_SAID: Final = RemarkBody()


@post("/organizations/{org:str}/alarms/{alarm:uuid}/acknowledge", status_code=200, opt=OPERATE)
async def acknowledge_alarm(
    org: FromPath[str],
    alarm: FromPath[uuid.UUID],
    context: NamedDependency[ManagementContext],
    principal: NamedDependency[Principal],
    data: JSONBody[RemarkBody] = NOTHING_SAID,
) -> AlarmAnswer:
    """Again changes nothing: who was first stays."""
    organization = await context.organization(org)
    await AlarmActions(context.database).acknowledge(organization.epoch, [alarm], principal.name, data.comment)
    return await _as_it_is(context, organization, alarm)


@post("/organizations/{org:str}/alarms/acknowledge", status_code=200, opt=OPERATE)
async def acknowledge_alarms(
    org: FromPath[str],
    data: JSONBody[AcknowledgeManyBody],
    context: NamedDependency[ManagementContext],
    principal: NamedDependency[Principal],
) -> AcknowledgedMany:
    """At most 1,000 at once."""
    if (data.ids is None) == (data.filter is None):
        fault = Fault("either ids or a filter must be given, and not both", field="ids")
        raise Rejected("invalid", "the body is not valid", faults=(fault,))
    wanted = None if data.filter is None else data.filter.alarms()
    organization = await context.organization(org)
    actions, who = AlarmActions(context.database), principal.name
    if wanted is not None:
        found = await alarms.unacknowledged(context.database, organization.epoch, MAX_AT_ONCE + 1, wanted)
        done = await actions.acknowledge(organization.epoch, found[:MAX_AT_ONCE], who, data.comment)
        return AcknowledgedMany([str(each) for each in done], [], [], more=len(found) > MAX_AT_ONCE)
    ids = list(dict.fromkeys(data.ids or ()))
    changed = set(await actions.acknowledge(organization.epoch, ids, who, data.comment))
    existing = await actions.existing(organization.epoch, ids)
    return AcknowledgedMany(
        acknowledged=[str(each) for each in ids if each in changed],
        already=[str(each) for each in ids if each in existing and each not in changed],
        unknown=[str(each) for each in ids if each not in existing and each not in changed],
        more=False,
    )


@post("/organizations/{org:str}/alarms/{alarm:uuid}/assign", status_code=200, opt=OPERATE)
async def assign_alarm(
    org: FromPath[str],
    alarm: FromPath[uuid.UUID],
    data: JSONBody[AssignBody],
    context: NamedDependency[ManagementContext],
    principal: NamedDependency[Principal],
) -> AlarmAnswer:
    organization = await context.organization(org)
    await AlarmActions(context.database).assign(organization.epoch, alarm, principal.name, data.assigned_to)
    return await _as_it_is(context, organization, alarm)


@post("/organizations/{org:str}/alarms/{alarm:uuid}/clear", status_code=202, opt=OPERATE)
async def clear_alarm(
    org: FromPath[str],
    alarm: FromPath[uuid.UUID],
    context: NamedDependency[ManagementContext],
    principal: NamedDependency[Principal],
    data: JSONBody[RemarkBody] = NOTHING_SAID,
) -> AlarmAnswer:
    """Analysis clears it, in its place among the readings: the answer shows the alarm as it was before."""
    organization = await context.organization(org)
    row = await found_alarm(context, organization, alarm)
    if row.state != "active":
        raise Rejected("conflict", "the alarm is cleared already")
    # First, so that the timeline of an alarm that is cleared at once has it in this order.
    await AlarmActions(context.database).note_clear_request(organization.epoch, alarm, principal.name, data.comment)
    control = ClearAlarm(str(alarm), row.rule_id, row.device_id, row.sensor, principal.name, now_us())
    await context.controls.publish(organization, control)
    return alarm_answer(organization.id, row)


@post("/organizations/{org:str}/alarms/{alarm:uuid}/comment", status_code=200, opt=OPERATE)
async def comment_alarm(
    org: FromPath[str],
    alarm: FromPath[uuid.UUID],
    data: JSONBody[CommentBody],
    context: NamedDependency[ManagementContext],
    principal: NamedDependency[Principal],
) -> AlarmAnswer:
    """The comment stands in the timeline."""
    organization = await context.organization(org)
    await AlarmActions(context.database).comment(organization.epoch, alarm, principal.name, data.comment)
    return await _as_it_is(context, organization, alarm)


@post("/organizations/{org:str}/alarms/{alarm:uuid}/snooze", status_code=200, opt=OPERATE)
async def snooze_alarm(
    org: FromPath[str],
    alarm: FromPath[uuid.UUID],
    data: JSONBody[SnoozeBody],
    context: NamedDependency[ManagementContext],
    principal: NamedDependency[Principal],
) -> AlarmAnswer:
    """Nobody is notified of this alarm until then."""
    until = _snooze_end(data.until)
    organization = await context.organization(org)
    done = await AlarmActions(context.database).snooze(
        organization.epoch,
        alarm,
        principal.name,
        None if until is None else to_datetime(until),
        None if until is None else format_timestamp(until),
    )
    answer = await _as_it_is(context, organization, alarm)
    if not done:
        raise Rejected("conflict", "the alarm is cleared: only an active one can be snoozed")
    return answer


def _snooze_end(until: Moment | None) -> int | None:
    if until is None:
        return None
    at, now = parsed_moment("until", until), now_us()
    if not now < at <= now + LONGEST_SNOOZE_US:
        fault = Fault("must lie in the future, and within a year; null ends a snooze", field="until")
        raise Rejected("invalid", "the body is not valid", faults=(fault,))
    return at


async def _as_it_is(context: ManagementContext, organization: Organization, alarm: uuid.UUID) -> AlarmAnswer:
    return alarm_answer(organization.id, await found_alarm(context, organization, alarm))

"""`/organizations/{org}/deliveries`."""

from __future__ import annotations

import uuid
from typing import Annotated, Literal

import msgspec
from litestar import get
from litestar.di import NamedDependency
from litestar.params import FromPath, QueryParameter

from iotplatform.adapters.postgres import deliveries
from iotplatform.adapters.postgres.deliveries import DeliveryFilter
from iotplatform.adapters.postgres.models import DeliveryRow
from iotplatform.domain.timestamps import format_timestamp, to_datetime, to_microseconds
from iotplatform.roles.management.access import READ
from iotplatform.roles.management.context import ManagementContext
from iotplatform.roles.management.paging import (
    DEFAULT_LIMIT,
    Cursor,
    Limit,
    Page,
    decode_time_cursor,
    page,
    time_place,
)
from iotplatform.roles.management.parameters import From, To, check_channel_ids, parse_time

Alarms = Annotated[list[uuid.UUID] | None, QueryParameter(description="only of these alarms; repeatable")]
Channels = Annotated[list[str] | None, QueryParameter(description="only over these channels; repeatable")]
Transitions = Annotated[
    list[Literal["raised", "cleared", "acknowledged", "reminder"]] | None,
    QueryParameter(description="only of these transitions; repeatable"),
]
# `state` itself means something else to Litestar.
States = Annotated[
    list[Literal["pending", "sent", "failed", "suppressed"]] | None,
    QueryParameter(name="state", description="only in one of these states; repeatable"),
]


class AttemptAnswer(msgspec.Struct, frozen=True):
    at: str
    outcome: str
    detail: str


class DeliveryAnswer(msgspec.Struct, frozen=True):
    """`number` counts the reminders of an alarm, and is 0 for everything else."""

    id: str
    alarm_id: str
    channel_id: str
    transition: str
    number: int
    state: str
    attempts: list[AttemptAnswer]
    created_at: str
    next_attempt_at: str | None


@get("/organizations/{org:str}/deliveries", opt=READ)
async def list_deliveries(
    org: FromPath[str],
    context: NamedDependency[ManagementContext],
    *,
    alarm_id: Alarms = None,
    channel_id: Channels = None,
    transition: Transitions = None,
    states: States = None,
    since: From = None,
    until: To = None,
    limit: Limit = DEFAULT_LIMIT,
    cursor: Cursor = None,
) -> Page[DeliveryAnswer]:
    start, end = parse_time("from", since), parse_time("to", until)
    wanted = DeliveryFilter(
        alarm_ids=tuple(alarm_id or ()),
        channel_ids=check_channel_ids(channel_id),
        transitions=tuple(transition or ()),
        states=tuple(states or ()),
        since=None if start is None else to_datetime(start),
        until=None if end is None else to_datetime(end),
    )
    after = decode_time_cursor(cursor)
    organization = await context.organization(org)
    found = await deliveries.page(context.database, organization.epoch, limit + 1, after, wanted)
    return page(found, limit, _answer, lambda last: time_place(last.created_at, last.id))


def _answer(row: DeliveryRow) -> DeliveryAnswer:
    next_attempt_at = row.next_attempt_at if row.state == "pending" else None
    return DeliveryAnswer(
        id=str(row.id),
        alarm_id=str(row.alarm_id),
        channel_id=row.channel_id,
        transition=row.transition,
        number=row.number,
        state=row.state,
        attempts=msgspec.convert(row.attempts, list[AttemptAnswer]),
        created_at=format_timestamp(to_microseconds(row.created_at)),
        next_attempt_at=None if next_attempt_at is None else format_timestamp(to_microseconds(next_attempt_at)),
    )

"""`/organizations/{org}/deliveries`."""

from __future__ import annotations

import msgspec
from litestar import get
from litestar.di import NamedDependency
from litestar.params import FromPath

from iotplatform.adapters.postgres import deliveries
from iotplatform.adapters.postgres.models import DeliveryRow
from iotplatform.domain.timestamps import format_timestamp, to_microseconds
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


class AttemptAnswer(msgspec.Struct, frozen=True):
    at: str
    outcome: str
    detail: str


class DeliveryAnswer(msgspec.Struct, frozen=True):
    id: str
    alarm_id: str
    channel_id: str
    transition: str
    state: str
    attempts: list[AttemptAnswer]
    created_at: str
    next_attempt_at: str | None


@get("/organizations/{org:str}/deliveries", opt=READ)
async def list_deliveries(
    org: FromPath[str],
    context: NamedDependency[ManagementContext],
    limit: Limit = DEFAULT_LIMIT,
    cursor: Cursor = None,
) -> Page[DeliveryAnswer]:
    after = decode_time_cursor(cursor)
    organization = await context.organization(org)
    found = await deliveries.page(context.database, organization.epoch, limit + 1, after)
    return page(found, limit, _answer, lambda last: time_place(last.created_at, last.id))


def _answer(row: DeliveryRow) -> DeliveryAnswer:
    next_attempt_at = row.next_attempt_at if row.state == "pending" else None
    return DeliveryAnswer(
        id=str(row.id),
        alarm_id=str(row.alarm_id),
        channel_id=row.channel_id,
        transition=row.transition,
        state=row.state,
        attempts=msgspec.convert(row.attempts, list[AttemptAnswer]),
        created_at=format_timestamp(to_microseconds(row.created_at)),
        next_attempt_at=None if next_attempt_at is None else format_timestamp(to_microseconds(next_attempt_at)),
    )

"""`/organizations/{org}/telemetry`."""

from __future__ import annotations

from typing import Annotated

import msgspec
from litestar import get
from litestar.di import NamedDependency
from litestar.params import FromPath, QueryParameter

from iotplatform.domain.organization import Organization
from iotplatform.domain.reading import Reading, Value
from iotplatform.domain.telemetry import TelemetryRange
from iotplatform.domain.timestamps import format_timestamp
from iotplatform.errors import Unavailable
from iotplatform.roles.management.access import READ
from iotplatform.roles.management.context import ManagementContext
from iotplatform.roles.management.paging import (
    BY_SERIES,
    BY_SERIES_AND_TIME,
    DEFAULT_LIMIT,
    Cursor,
    Limit,
    Page,
    decode_cursor,
    page,
)
from iotplatform.roles.management.parameters import (
    DeviceIds,
    From,
    To,
    check_device_ids,
    check_sensors,
    parse_time,
)

Sensors = Annotated[list[str] | None, QueryParameter(description="only these sensors; repeatable")]


class ReadingAnswer(msgspec.Struct, frozen=True):
    device_id: str
    sensor: str
    timestamp: str
    value: Value


@get(
    "/organizations/{org:str}/telemetry", opt={**READ, "planned_parameters": ("aggregate", "interval", "tz", "points")}
)
async def list_readings(
    org: FromPath[str],
    context: NamedDependency[ManagementContext],
    *,
    device_id: DeviceIds = None,
    sensor: Sensors = None,
    since: From = None,
    until: To = None,
    limit: Limit = DEFAULT_LIMIT,
    cursor: Cursor = None,
) -> Page[ReadingAnswer]:
    wanted = TelemetryRange(
        check_device_ids(device_id), check_sensors(sensor), parse_time("from", since), parse_time("to", until)
    )
    after = decode_cursor(cursor, BY_SERIES_AND_TIME)
    organization = await context.organization(org)
    found = await context.telemetry.page(organization.epoch, limit + 1, after, wanted)
    return page(found, limit, _answer, lambda last: (last.device_id, last.sensor, last.at))


@get("/organizations/{org:str}/telemetry/latest", opt=READ)
async def list_latest(
    org: FromPath[str],
    context: NamedDependency[ManagementContext],
    device_id: DeviceIds = None,
    limit: Limit = DEFAULT_LIMIT,
    cursor: Cursor = None,
) -> Page[ReadingAnswer]:
    device_ids = list(check_device_ids(device_id))
    after = decode_cursor(cursor, BY_SERIES)
    organization = await context.organization(org)
    found = await _latest(context, organization, device_ids)
    if after is not None:
        found = [reading for reading in found if (reading.device_id, reading.sensor) > after]
    return page(found[: limit + 1], limit, _answer, lambda last: (last.device_id, last.sensor))


async def _latest(context: ManagementContext, organization: Organization, device_ids: list[str]) -> list[Reading]:
    """By device and sensor; from the store while Redis is away or was emptied."""
    try:
        known = await context.latest.read(organization.epoch, device_ids)
    except Unavailable:
        known = None
    if known is None:
        found = await context.telemetry.latest(organization.epoch, device_ids)
    else:
        found = [Reading(device_id, sensor, value, at) for device_id, sensor, value, at in known]
    # Sorted here, so that a cursor means the same whoever answered, and whatever the database's collation is.
    return sorted(found, key=lambda reading: (reading.device_id, reading.sensor))


def _answer(reading: Reading) -> ReadingAnswer:
    return ReadingAnswer(reading.device_id, reading.sensor, format_timestamp(reading.at), reading.value)

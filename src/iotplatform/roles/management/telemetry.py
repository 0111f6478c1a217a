"""`/organizations/{org}/telemetry`."""

from __future__ import annotations

from typing import Any

from litestar import Request, Response, get
from litestar.di import NamedDependency
from litestar.params import FromPath

from iotplatform.domain.organization import Organization
from iotplatform.domain.reading import Reading
from iotplatform.domain.telemetry import TelemetryRange
from iotplatform.domain.timestamps import format_timestamp
from iotplatform.errors import Unavailable
from iotplatform.roles.management.access import READ
from iotplatform.roles.management.context import ManagementContext
from iotplatform.roles.management.paging import (
    BY_SERIES,
    DEFAULT_LIMIT,
    Cursor,
    Limit,
    MaybeLimit,
    Page,
    decode_cursor,
    page,
)
from iotplatform.roles.management.parameters import DeviceIds, From, To, check_device_ids
from iotplatform.roles.management.telemetry_answers import TelemetryStream, page_of, running
from iotplatform.roles.management.telemetry_formats import STREAMED, ReadingAnswer
from iotplatform.roles.management.telemetry_parameters import (
    AggregateText,
    Asked,
    FillText,
    IntervalText,
    Points,
    Sensors,
    ZoneText,
    media_type_of,
    query_of,
)


@get("/organizations/{org:str}/telemetry", opt={**READ, "also_answers": STREAMED})
async def list_readings(
    org: FromPath[str],
    request: Request[Any, Any, Any],
    context: NamedDependency[ManagementContext],
    *,
    device_id: DeviceIds = None,
    sensor: Sensors = None,
    since: From = None,
    until: To = None,
    aggregate: AggregateText = None,
    interval: IntervalText = None,
    zone: ZoneText = None,
    fill: FillText = None,
    points: Points = None,
    limit: MaybeLimit = None,
    cursor: Cursor = None,
) -> Response[Page[ReadingAnswer]]:
    """JSON in pages; NDJSON, CSV and Parquet, by `Accept`, as one stream of everything."""
    media_type = media_type_of(request.headers.get("accept", "*/*"))
    asked = Asked(device_id, sensor, since, until, aggregate, interval, zone, fill, points, limit, cursor)
    query = await query_of(asked, media_type)
    organization = await context.organization(org)
    if media_type != "application/json":
        return TelemetryStream(context, organization.epoch, query, media_type)
    most = DEFAULT_LIMIT if limit is None else limit
    if aggregate is not None or points is not None:
        return Response(await page_of(context, organization.epoch, query, most))
    async with running(context, organization.epoch):
        wanted = TelemetryRange(query.device_ids, query.sensors, query.since, query.until)
        found = await context.telemetry.page(organization.epoch, most + 1, query.after, wanted)
    return Response(page(found, most, _answer, lambda last: (last.device_id, last.sensor, last.at)))


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
    found = await _latest(context, organization, device_ids, after, limit + 1)
    return page(found, limit, _answer, lambda last: (last.device_id, last.sensor))


async def _latest(
    context: ManagementContext,
    organization: Organization,
    device_ids: list[str],
    after: tuple[str, str] | None,
    limit: int,
) -> list[Reading]:
    """From the store while Redis is away or was emptied; both have the same order."""
    try:
        known = await context.latest.page(organization.epoch, device_ids, after, limit)
    except Unavailable:
        known = None
    if known is None:
        return await context.telemetry.latest(organization.epoch, device_ids, after, limit)
    return [Reading(device_id, sensor, value, at) for device_id, sensor, value, at in known]


def _answer(reading: Reading) -> ReadingAnswer:
    return ReadingAnswer(reading.device_id, reading.sensor, format_timestamp(reading.at), reading.value)

"""`/organizations/{org}/series`."""

from __future__ import annotations

from litestar import get
from litestar.di import NamedDependency
from litestar.params import FromPath

from iotplatform.adapters.postgres import series
from iotplatform.adapters.postgres.series import Series
from iotplatform.roles.management.access import READ
from iotplatform.roles.management.context import ManagementContext
from iotplatform.roles.management.paging import BY_SERIES, DEFAULT_LIMIT, Cursor, Limit, Page, decode_cursor, page
from iotplatform.roles.management.parameters import DeviceIds, check_device_ids


@get("/organizations/{org:str}/series", opt=READ)
async def list_series(
    org: FromPath[str],
    context: NamedDependency[ManagementContext],
    device_id: DeviceIds = None,
    limit: Limit = DEFAULT_LIMIT,
    cursor: Cursor = None,
) -> Page[Series]:
    """What is measured, and in which unit where a device has told it (SenML does)."""
    device_ids = check_device_ids(device_id)
    after = decode_cursor(cursor, BY_SERIES)
    organization = await context.organization(org)
    found = await series.page(context.database, organization.epoch, limit + 1, after, device_ids)
    return page(found, limit, lambda one: one, lambda last: (last.device_id, last.sensor))

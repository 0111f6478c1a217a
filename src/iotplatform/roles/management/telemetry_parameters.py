"""The parameters of a query of telemetry, and what goes with what."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Annotated, Final, TypeVar, get_args

import msgspec
from litestar.datastructures.headers import Accept
from litestar.params import QueryParameter

from iotplatform.domain.querying.aggregates import parse_aggregate
from iotplatform.domain.querying.gaps import Fill
from iotplatform.domain.querying.intervals import Interval, parse_interval, parse_zone
from iotplatform.domain.querying.query import TelemetryQuery
from iotplatform.errors import Fault, Rejected
from iotplatform.roles.management.paging import BY_SERIES_AND_START, decode_cursor
from iotplatform.roles.management.parameters import check_device_ids, check_sensors, parse_time
from iotplatform.roles.management.telemetry_formats import STREAMED

FEWEST_POINTS: Final = 3
MOST_POINTS: Final = 10_000

Sensors = Annotated[list[str] | None, QueryParameter(description="only these sensors; repeatable")]
AggregateText = Annotated[
    str | None, QueryParameter(name="aggregate", description="count, min, max, avg, sum, first, last, or p0 to p100")
]
IntervalText = Annotated[
    str | None, QueryParameter(name="interval", description="such as 15m, 1h, 1d, 1mo; absent: the whole range")
]
ZoneText = Annotated[str | None, QueryParameter(name="tz", description="whose days and months; absent: UTC")]
FillText = Annotated[
    str | None, QueryParameter(name="fill", description="intervals without a value: none, null, previous, linear")
]
Points = Annotated[
    int | None, QueryParameter(ge=FEWEST_POINTS, le=MOST_POINTS, description="of each series, chosen by LTTB")
]

T = TypeVar("T")


class Asked(msgspec.Struct, frozen=True):
    """As they stand in the request."""

    device_ids: list[str] | None
    sensors: list[str] | None
    since: str | None
    until: str | None
    aggregate: str | None
    interval: str | None
    zone: str | None
    fill: str | None
    points: int | None
    limit: int | None
    cursor: str | None


async def query_of(asked: Asked, media_type: str) -> TelemetryQuery:
    """What is asked for.

    Raises:
        Rejected: something is wrong, or does not go with something else (invalid).
    """
    faults = _misfits(asked, media_type)
    aggregate = _parsed("aggregate", asked.aggregate, parse_aggregate, faults)
    zone = None
    try:
        zone = await asyncio.to_thread(parse_zone, "UTC" if asked.zone is None else asked.zone)
    except ValueError as error:
        faults.append(Fault(str(error), field="tz"))
    interval: Interval | None = None
    if zone is not None:
        known = zone
        interval = _parsed("interval", asked.interval, lambda text: parse_interval(text, known), faults)
    fill = _parsed("fill", asked.fill, _fill, faults)
    if faults:
        raise Rejected("invalid", "the query is not valid", faults=tuple(faults))
    return TelemetryQuery(
        device_ids=check_device_ids(asked.device_ids),
        sensors=check_sensors(asked.sensors),
        since=parse_time("from", asked.since),
        until=parse_time("to", asked.until),
        after=decode_cursor(asked.cursor, BY_SERIES_AND_START),
        aggregate=aggregate,
        interval=interval,
        fill=fill or "none",
        points=asked.points,
    )


def media_type_of(accept: str) -> str:
    best = Accept(accept or "*/*").best_match(["application/json", *STREAMED])
    return best if best in STREAMED else "application/json"


def _misfits(asked: Asked, media_type: str) -> list[Fault]:
    faults = []
    if asked.aggregate is None:
        faults += [
            Fault("needs an aggregate", field=name)
            for name, value in (("interval", asked.interval), ("fill", asked.fill))
            if value is not None
        ]
    elif asked.points is not None:
        faults.append(Fault("are chosen out of readings: leave out the aggregate", field="points"))
    for name, value in (("fill", asked.fill), ("tz", asked.zone)):
        if value is not None and asked.aggregate is not None and asked.interval is None:
            faults.append(Fault("needs an interval", field=name))
    if asked.zone is not None and asked.aggregate is None:
        faults.append(Fault("needs an aggregate and an interval: times are UTC in every answer", field="tz"))
    if media_type != "application/json":
        faults += [
            Fault(f"goes with JSON only: {media_type} gives the whole result", field=name)
            for name, value in (("limit", asked.limit), ("cursor", asked.cursor))
            if value is not None
        ]
    return faults


def _fill(text: str) -> Fill:
    try:
        found: Fill = msgspec.convert(text, Fill)
    except msgspec.ValidationError:
        raise ValueError(f"must be one of {', '.join(get_args(Fill))}") from None
    return found


def _parsed(name: str, text: str | None, parse: Callable[[str], T], faults: list[Fault]) -> T | None:
    if text is None:
        return None
    try:
        return parse(text)
    except ValueError as error:
        faults.append(Fault(str(error), field=name))
        return None

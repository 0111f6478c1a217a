"""Rows of some series, as they come out of InfluxDB."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any

from iotplatform.adapters.influx.client import InfluxClient
from iotplatform.adapters.influx.influxql import Portion, key_of
from iotplatform.adapters.influx.lines import MEASUREMENT
from iotplatform.domain.telemetry import SeriesKey
from iotplatform.errors import Unavailable

# A series, and some of its rows: a time, and what was selected.
Found = tuple[SeriesKey, list[list[Any]]]

# Every point has a kind, and what it does not name may be left over from a value of another type.
NUMBERS = ' AND "kind" < 2'


async def select(
    client: InfluxClient, what: str, where: str, portion: Portion, interval_us: int | None = None
) -> AsyncGenerator[Found, None]:
    """In the order of the portion's keys, each series' rows by time in any number of parts."""
    interval, fill = ("", "") if interval_us is None else (f"time({interval_us}u), ", " fill(none)")
    statement = (
        f"SELECT {what} FROM {MEASUREMENT} WHERE {where} AND {portion.condition} "  # noqa: S608 - made of literals
        f'GROUP BY {interval}"device", "sensor"{fill}'
    )
    places = {key: place for place, key in enumerate(portion.keys)}
    last = -1
    async with aclosing(client.stream(statement)) as answer:
        async for series in answer:
            key = key_of(series)
            place = places.get(key)
            if place is None:
                continue
            if place < last:
                raise Unavailable("InfluxDB does not sort series by the bytes of their tags")
            last = place
            yield key, series.values

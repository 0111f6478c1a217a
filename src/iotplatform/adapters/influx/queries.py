"""Readings and their aggregates out of InfluxDB, as a stream of rows.

InfluxDB computes where it means the same as PostgreSQL. It has no months, and its days are its own: intervals of a
calendar are put together here out of shorter ones. Its percentiles are other ones: they are taken here out of readings.
"""

from __future__ import annotations

import asyncio
from array import array
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import aclosing
from typing import Any, Final

from iotplatform.adapters.influx.client import InfluxClient
from iotplatform.adapters.influx.folding import SORTED_HERE, common_step, joined, percentile, start_in
from iotplatform.adapters.influx.influxql import Portion, of_devices, of_epoch, of_sensors, portions, within
from iotplatform.adapters.influx.lines import MEASUREMENT, value_of
from iotplatform.adapters.influx.selection import NUMBERS, Found, select
from iotplatform.domain.querying.query import TelemetryQuery
from iotplatform.domain.querying.store import AT_ONCE, MOST_HELD, Chunk
from iotplatform.domain.reading import Value
from iotplatform.domain.telemetry import SeriesKey
from iotplatform.errors import Rejected

# By epoch: those after this key, of these devices (none: of all), so many at most, by device and sensor.
ListSeries = Callable[[int, int, SeriesKey, tuple[str, ...]], Awaitable[list[SeriesKey]]]

SERIES_IN_A_PAGE: Final = 1_000

_READING: Final = '"kind", "value", "text"'
_COMPUTED: Final = {
    "count": 'count("kind")',
    "min": 'min("value")',
    "max": 'max("value")',
    "avg": 'mean("value")',
    "sum": 'sum("value")',
    "first": 'first("kind"), "value", "text"',
    "last": 'last("kind"), "value", "text"',
}
_OF_ALL_KINDS: Final = {"count", "first", "last"}
_PARTS_OF_AVERAGE: Final = 'sum("value"), count("value")'


class InfluxQueries:
    """`client` has no time-out of its own and serves nothing else, so that heavy queries delay no readings."""

    def __init__(self, client: InfluxClient, list_series: ListSeries) -> None:
        self._client = client
        self._list_series = list_series

    async def bounds(self, epoch: int, query: TelemetryQuery) -> tuple[int, int] | None:
        condition = f"{of_epoch(epoch)} AND {within(query.since, query.until)}"
        if query.device_ids:
            condition += f" AND {of_devices(query.device_ids)}"
        if query.sensors:
            condition += f" AND {of_sensors(query.sensors)}"
        ends = []
        for end in ("first", "last"):
            found = await self._client.query(f'SELECT {end}("kind") FROM {MEASUREMENT} WHERE {condition}')  # noqa: S608
            ends += [int(row[0]) for series in found for row in series.values]
        return (ends[0], ends[1]) if len(ends) == 2 else None

    async def readings(self, epoch: int, query: TelemetryQuery) -> AsyncGenerator[Chunk, None]:
        condition = NUMBERS if query.points else ""
        async with aclosing(self._found(epoch, query, _READING, condition)) as found:
            gathered: Chunk = []
            async for (device_id, sensor), rows in found:
                gathered += [(device_id, sensor, at, value_of(kind, value, text)) for at, kind, value, text in rows]
                if len(gathered) >= AT_ONCE:
                    yield gathered
                    gathered = []
            if gathered:
                yield gathered

    async def aggregates(
        self, epoch: int, query: TelemetryQuery, starts: list[int] | None
    ) -> AsyncGenerator[Chunk, None]:
        assert query.aggregate is not None  # noqa: S101 - what the caller asks for
        name, share = query.aggregate.name, query.aggregate.share
        if share is not None:
            values = self._percentiles(epoch, query, _start_of(query, starts), share)
        else:
            values = self._computed(epoch, query, name, starts)
        async with aclosing(values) as found:
            gathered: Chunk = []
            async for (device_id, sensor), points in found:
                gathered += [(device_id, sensor, at, value) for at, value in points]
                if len(gathered) >= AT_ONCE:
                    yield gathered
                    gathered = []
            if gathered:
                yield gathered

    async def _computed(
        self, epoch: int, query: TelemetryQuery, name: str, starts: list[int] | None
    ) -> AsyncGenerator[tuple[SeriesKey, list[tuple[int, Value]]], None]:
        what, interval_us = _COMPUTED[name], None
        value_in: Callable[[list[Any]], Any] = _READERS.get(name, _number)
        if starts is None:
            assert query.interval is not None  # noqa: S101 - what the caller asks for
            interval_us = query.interval.fixed_us
        elif len(starts) > 1:
            interval_us = common_step(starts)
            if name == "avg":
                what, value_in = _PARTS_OF_AVERAGE, _sum_and_count
        condition = "" if name in _OF_ALL_KINDS else NUMBERS
        async with aclosing(self._found(epoch, query, what, condition, interval_us)) as found:
            if starts is None or len(starts) == 1:
                async for key, rows in found:
                    yield key, [(row[0] if starts is None else starts[0], value_in(row)) for row in rows]
                return
            # The parts of an interval may come in several chunks, but a series' parts are few beside its readings.
            async for key, rows in _by_series(found):
                yield key, list(joined(name, ((row[0], value_in(row)) for row in rows), starts))

    async def _percentiles(
        self, epoch: int, query: TelemetryQuery, start_of: Callable[[int], int], share: float
    ) -> AsyncGenerator[tuple[SeriesKey, list[tuple[int, Value]]], None]:
        place: tuple[SeriesKey, int] | None = None
        held = array("d")
        async with aclosing(self._found(epoch, query, '"value"', NUMBERS)) as found:
            async for key, rows in found:
                for at, value in rows:
                    here = (key, start_of(at))
                    if here != place:
                        if place is not None:
                            yield place[0], [(place[1], await _percentile(held, share))]
                        place, held = here, array("d")
                    held.append(value)
                if len(held) > MOST_HELD:
                    detail = (
                        f"{key[1]!r} of {key[0]} has more than {MOST_HELD} readings in an interval, the most out of "
                        "which a percentile is taken with InfluxDB as the store: choose a shorter interval"
                    )
                    raise Rejected("invalid", detail)
        if place is not None:
            yield place[0], [(place[1], await _percentile(held, share))]

    async def _found(
        self, epoch: int, query: TelemetryQuery, what: str, condition: str, interval_us: int | None = None
    ) -> AsyncGenerator[Found, None]:
        """By device and sensor as the list of series has them; the rows of one in any number of parts."""
        where = f"{of_epoch(epoch)}{condition} AND {within(query.since, query.until)}"
        async with aclosing(self._portions(epoch, query)) as some:
            async for portion in some:
                async with aclosing(select(self._client, what, where, portion, interval_us)) as found:
                    async for one in found:
                        yield one

    async def _portions(self, epoch: int, query: TelemetryQuery) -> AsyncGenerator[Portion, None]:
        """From the series of the place on: the rest of a page after it."""
        place, keys = ("", ""), []
        partly: set[str] = set()
        if query.after is not None:
            place = query.after[:2]
            partly.add(place[0])
            if (not query.device_ids or place[0] in query.device_ids) and (
                not query.sensors or place[1] in query.sensors
            ):
                keys.append(place)
        while page := await self._list_series(epoch, SERIES_IN_A_PAGE, place, query.device_ids):
            place = page[-1]
            keys += [key for key in page if not query.sensors or key[1] in query.sensors]
            if len(page) < SERIES_IN_A_PAGE:
                break
            # The last device may go on on the next page.
            behind = [key for key in keys if key[0] == place[0]]
            if len(behind) >= SERIES_IN_A_PAGE:
                partly.add(place[0])
                behind = []
            for portion in portions(keys[: len(keys) - len(behind)], query.sensors, partly):
                yield portion
            keys = behind
        for portion in portions(keys, query.sensors, partly):
            yield portion


def _start_of(query: TelemetryQuery, starts: list[int] | None) -> Callable[[int], int]:
    if starts is None:
        assert query.interval is not None  # noqa: S101 - what the caller asks for
        return query.interval.start
    return lambda at: start_in(starts, at)


def _number(row: list[Any]) -> Value:
    return float(row[1])


def _count(row: list[Any]) -> Value:
    return int(row[1])


def _reading(row: list[Any]) -> Value:
    return value_of(row[1], row[2], row[3])


def _sum_and_count(row: list[Any]) -> Any:
    return float(row[1]), int(row[2])


_READERS: Final[dict[str, Callable[[list[Any]], Any]]] = {"count": _count, "first": _reading, "last": _reading}


async def _by_series(found: AsyncIterator[Found]) -> AsyncIterator[Found]:
    gathered: Found | None = None
    async for key, rows in found:
        if gathered is not None and gathered[0] == key:
            gathered[1].extend(rows)
            continue
        if gathered is not None:
            yield gathered
        gathered = key, rows
    if gathered is not None:
        yield gathered


async def _percentile(values: array[float], share: float) -> float:
    if len(values) <= SORTED_HERE:
        return percentile(values, share)
    return await asyncio.to_thread(percentile, values, share)

"""The telemetry store in InfluxDB. Which series there are is asked elsewhere: PostgreSQL keeps that."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from itertools import islice
from typing import Any, Final

from iotplatform.adapters.influx.client import InfluxClient, TooLarge
from iotplatform.adapters.influx.influxql import key_of, of_epoch, of_series
from iotplatform.adapters.influx.lines import (
    FIRST_US,
    LAST_US,
    MEASUREMENT,
    Heads,
    Lines,
    Unwritable,
    add_lines,
    encode_name,
    literal,
    value_of,
)
from iotplatform.domain.explanation import SeenReading
from iotplatform.domain.reading import Reading
from iotplatform.domain.telemetry import (
    Entry,
    LastReadings,
    Newest,
    Place,
    SeriesKey,
    TelemetryRange,
    UnstorableData,
)
from iotplatform.domain.timestamps import format_timestamp

LINES_AT_ONCE: Final = 5_000
SERIES_IN_A_PAGE: Final = 1_000
SERIES_IN_A_QUERY: Final = 50
POINTS_AT_ONCE: Final = 1_000

# By epoch: those after this key, of these devices (none: of all), so many at most, by device and sensor.
ListSeries = Callable[[int, int, SeriesKey, tuple[str, ...]], Awaitable[list[SeriesKey]]]
NameOf = Callable[[int], str | None]


class InfluxTelemetry:
    """`deletes_by_query`: as InfluxDB 1 deletes; the others have a request of their own for it."""

    def __init__(
        self, client: InfluxClient, list_series: ListSeries, name_of: NameOf, *, deletes_by_query: bool
    ) -> None:
        self._client = client
        self._list_series = list_series
        self._name_of = name_of
        self._deletes_by_query = deletes_by_query
        self._heads = Heads()

    async def close(self) -> None:
        await self._client.close()

    async def write(self, readings: Sequence[tuple[int, Sequence[Entry]]]) -> None:
        """Readings by epoch; doing it again changes nothing.

        Raises:
            UnstorableData: some of them are refused; others may be stored.
            Unavailable: InfluxDB is away.
        """
        lines: Lines = {}
        try:
            for epoch, entries in readings:
                # Without a name its organization has just been deleted, and so will be what is written now.
                name = self._name_of(epoch) or str(epoch)
                for start in range(0, len(entries), LINES_AT_ONCE):
                    add_lines(lines, self._heads, epoch, name, entries[start : start + LINES_AT_ONCE])
                    await asyncio.sleep(0)
        except Unwritable as error:
            raise UnstorableData(str(error)) from error
        for some in _chunks(lines.values(), LINES_AT_ONCE):
            await self._write(some)

    async def refusal(self, readings: Sequence[Entry], epoch: int) -> str | None:
        """Why InfluxDB does not take these readings; None when it does, and then they are stored."""
        try:
            await self.write([(epoch, readings)])
        except UnstorableData as error:
            return str(error)
        return None

    async def page(self, epoch: int, limit: int, after: Place | None, wanted: TelemetryRange) -> list[Reading]:
        since = FIRST_US if wanted.since is None else wanted.since
        until = LAST_US if wanted.until is None else min(wanted.until, LAST_US)
        found: list[Reading] = []
        place = ("", "")
        if after is not None:
            place = after[:2]
            found += await self._range(epoch, [place], max(since, after[2] + 1), until, limit)
        while len(found) < limit and (keys := await self._series(epoch, place, wanted.device_ids)):
            place = keys[-1]
            some = [key for key in keys if not wanted.sensors or key[1] in wanted.sensors]
            for chunk in _chunks(some, SERIES_IN_A_QUERY):
                if len(found) >= limit:
                    break
                found += await self._range(epoch, chunk, since, until, limit - len(found))
        return found[:limit]

    async def latest(self, epoch: int, device_ids: Sequence[str], after: SeriesKey | None, limit: int) -> list[Reading]:
        found: list[Reading] = []
        place = after or ("", "")
        while len(found) < limit and (keys := await self._series(epoch, place, tuple(device_ids))):
            place = keys[-1]
            for chunk in _chunks(keys[: limit - len(found)], SERIES_IN_A_QUERY):
                place = chunk[-1]
                newest = await self._select(epoch, of_series(chunk), "ORDER BY time DESC LIMIT 1")
                found += [
                    Reading(key[0], key[1], value_of(kind, value, text), at)
                    for key in chunk
                    for at, kind, _, value, text in newest.get(key, [])
                ]
        return found

    async def newest(self, epoch: int) -> Newest:
        return await self._newest(epoch, [])

    async def last_readings(
        self, epoch: int, device_id: str, sensors: list[str], *, after: str, limit: int, readings: int
    ) -> list[LastReadings]:
        keys: list[SeriesKey] = []
        place = (device_id, after)
        while len(keys) < limit and (some := await self._series(epoch, place, (device_id,))):
            place = some[-1]
            keys += [key for key in some if not sensors or key[1] in sensors]
        found: list[LastReadings] = []
        for chunk in _chunks(keys[:limit], SERIES_IN_A_QUERY):
            seen = await self._select(epoch, of_series(chunk), f"ORDER BY time DESC LIMIT {readings}")
            for key in chunk:
                points = [
                    SeenReading(at, value_of(kind, value, text), position)
                    for at, kind, position, value, text in seen.get(key, [])
                ]
                found.append(LastReadings(key[1], sorted(points, key=lambda point: (point.position, point.at))))
        return found

    async def remove_organization(self, epoch: int) -> None:
        if self._deletes_by_query:
            await self._client.query(f"DROP SERIES FROM {MEASUREMENT} WHERE {of_epoch(epoch)}")
        else:
            await self._client.delete(*_period(FIRST_US, LAST_US), _predicate(epoch=str(epoch)))

    async def remove_device(self, epoch: int, device_id: str, cut: int) -> None:
        """InfluxDB deletes by time, not by field: all before a successor's first reading, and the rest one by one.

        A reading of the successor that arrives between the question and the deletion, with a time before its others,
        would be taken along.
        """
        device = f'"device" = {literal(device_id)}'
        behind = await self._times(epoch, f'{device} AND "position" > {cut}', "ASC", 1)
        newest = await self._times(epoch, f'{device} AND "position" <= {cut}', "DESC", 1)
        if not newest:
            return
        until = max(at for at, _ in newest)
        if behind:
            first = min(at for at, _ in behind)
            until = min(until, first - 1)
            while rest := await self._times(
                epoch, f'{device} AND "position" <= {cut} AND time >= {first}u', "ASC", POINTS_AT_ONCE
            ):
                for at, sensor in rest:
                    await self._delete(epoch, device_id, at, at, sensor)
        await self._delete(epoch, device_id, FIRST_US, until, None)

    async def expire(self, epoch: int, before: Mapping[SeriesKey, int]) -> int:
        """Remove what is older than its series is kept, in microseconds; how many readings that were."""
        groups: dict[int, set[SeriesKey]] = {}
        for key, until in before.items():
            groups.setdefault(until, set()).add(key)
        removed = 0
        for until, keys in groups.items():
            condition = f"{of_epoch(epoch)} AND time < {until}u"
            counted = f'SELECT count("position") FROM {MEASUREMENT} WHERE {condition} GROUP BY "device", "sensor"'  # noqa: S608
            found = {key_of(series): int(series.values[0][1]) for series in await self._client.query(counted)}
            due = {key: count for key, count in found.items() if key in keys}
            if len(due) == len(found) > SERIES_IN_A_PAGE:
                await self._delete(epoch, None, FIRST_US, until - 1, None)
            else:
                for device_id, sensor in due:
                    await self._delete(epoch, device_id, FIRST_US, until - 1, sensor)
            removed += sum(due.values())
        return removed

    async def _delete(self, epoch: int, device_id: str | None, first: int, last: int, sensor: str | None) -> None:
        """Both ends are deleted too."""
        if self._deletes_by_query:
            condition = of_epoch(epoch)
            if device_id is not None:
                condition += f' AND "device" = {literal(device_id)}'
            if sensor is not None:
                condition += f' AND "sensor" = {literal(encode_name(sensor))}'
            period = f"time >= {first}u AND time <= {last}u"
            await self._client.query(f"DELETE FROM {MEASUREMENT} WHERE {condition} AND {period}")  # noqa: S608
            return
        tags = {"epoch": str(epoch)}
        if device_id is not None:
            tags["device"] = device_id
        if sensor is not None:
            tags["sensor"] = encode_name(sensor)
        await self._client.delete(*_period(first, last), _predicate(**tags))

    async def _write(self, lines: Sequence[str]) -> None:
        try:
            await self._client.write("\n".join(lines).encode())
        except TooLarge:
            if len(lines) == 1:
                raise
            half = len(lines) // 2
            await self._write(lines[:half])
            await self._write(lines[half:])

    async def _series(self, epoch: int, after: SeriesKey, device_ids: tuple[str, ...]) -> list[SeriesKey]:
        return await self._list_series(epoch, SERIES_IN_A_PAGE, after, device_ids)

    async def _range(self, epoch: int, keys: Sequence[SeriesKey], since: int, until: int, limit: int) -> list[Reading]:
        condition = f"{of_series(keys)} AND time >= {since}u AND time < {until}u"
        found = await self._select(epoch, condition, f"ORDER BY time LIMIT {limit}")
        return [
            Reading(*key, value_of(kind, value, text), at)
            for key in keys
            for at, kind, _, value, text in found.get(key, [])
        ]

    async def _newest(self, epoch: int, device_ids: Sequence[str]) -> Newest:
        condition = " OR ".join(f'"device" = {literal(device_id)}' for device_id in device_ids)
        found = await self._select(epoch, f"({condition})" if condition else "", "ORDER BY time DESC LIMIT 1")
        return {
            key: (at, position, value_of(kind, value, text))
            for key, points in found.items()
            for at, kind, position, value, text in points
        }

    async def _select(self, epoch: int, condition: str, order: str) -> dict[SeriesKey, list[list[Any]]]:
        """Points of each series: time, kind, position, value, text."""
        where = f"{of_epoch(epoch)} AND {condition}" if condition else of_epoch(epoch)
        fields = '"kind", "position", "value", "text"'
        by_series = f'GROUP BY "device", "sensor" {order}'
        series = await self._client.query(f"SELECT {fields} FROM {MEASUREMENT} WHERE {where} {by_series}")  # noqa: S608
        return {key_of(one): one.values for one in series}

    async def _times(self, epoch: int, condition: str, order: str, limit: int) -> list[tuple[int, str]]:
        """Of each series so many at most: times and sensors."""
        where = f"{of_epoch(epoch)} AND {condition}"
        by_series = f'GROUP BY "device", "sensor" ORDER BY time {order} LIMIT {limit}'
        series = await self._client.query(f'SELECT "position" FROM {MEASUREMENT} WHERE {where} {by_series}')  # noqa: S608
        return [(point[0], key_of(one)[1]) for one in series for point in one.values]


def _predicate(**tags: str) -> str:
    def quoted(value: str) -> str:
        return '"' + value.replace("\\", "\\\\").replace('"', '\\"') + '"'

    return " AND ".join(f"{name}={quoted(value)}" for name, value in {"_measurement": MEASUREMENT, **tags}.items())


def _period(first: int, last: int) -> tuple[str, str]:
    """Whether the end is deleted too differs by version: between it and the next microsecond lies nothing of ours."""
    return format_timestamp(first), format_timestamp(last).replace("Z", "999Z")


def _chunks(items: Iterable[Any], size: int) -> Iterator[list[Any]]:
    left = iter(items)
    while some := list(islice(left, size)):
        yield some

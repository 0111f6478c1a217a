"""Stored readings in masses, for whoever has a process of its own to look at all of them."""

from __future__ import annotations

import importlib
from array import array
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import aclosing, asynccontextmanager
from typing import Final, Self

from iotplatform.adapters.influx.client import InfluxClient
from iotplatform.adapters.influx.influxql import SENSORS_AT_ONCE, of_epoch, portions, within
from iotplatform.adapters.influx.lines import TEXT, encode_name
from iotplatform.adapters.influx.selection import NUMBERS, select
from iotplatform.adapters.influx.settings import InfluxSettings
from iotplatform.domain.telemetry import SeriesKey

Points = list[tuple[int, float]]

POINTS_AT_ONCE: Final = 50_000


class InfluxHistory:
    def __init__(self, client: InfluxClient) -> None:
        self._client = client

    @classmethod
    @asynccontextmanager
    async def open(cls, settings: InfluxSettings) -> AsyncIterator[Self]:
        client = await InfluxClient.open(settings, connections=1, timeout_s=None)
        try:
            yield cls(client)
        finally:
            await client.close()

    async def copy(
        self,
        epoch: int,
        series: Mapping[int, SeriesKey],
        since: int,
        until: int,
        take: Callable[[int, Points], None],
        *,
        in_stream_order: bool,
        texts: bool,
        most: int,
    ) -> None:
        """Give `take` the readings of [since, until), series after series, each in order and in any number of parts.

        `texts`: readings that are text come too, as 0. InfluxDB knows the order of time only; for that of the stream
        a series is held here, unless it has more than `most` readings, which is more than `take` puts up with.
        """
        ids = {key: series_id for series_id, key in series.items()}
        keys = sorted(ids, key=lambda key: (key[0], encode_name(key[1])))
        sensors = {sensor for _, sensor in keys}
        named = sorted(sensors) if len(sensors) <= SENSORS_AT_ONCE else []
        where = f"{of_epoch(epoch)} AND {within(since, until)}{'' if texts else NUMBERS}"
        held = _Held(take, most)
        for portion in portions(keys, named, set()):
            async with aclosing(select(self._client, '"kind", "position", "value"', where, portion)) as found:
                async for key, rows in found:
                    if in_stream_order:
                        held.add(ids[key], rows)
                    else:
                        take(ids[key], [(at, 0.0 if kind == TEXT else float(value)) for at, kind, _, value in rows])
        held.give()


class _Held:
    def __init__(self, take: Callable[[int, Points], None], most: int) -> None:
        self._take = take
        self._most = most
        self._series_id = -1
        self._positions, self._times, self._values = array("q"), array("q"), array("d")

    def add(self, series_id: int, rows: list[list[float]]) -> None:
        if series_id != self._series_id or len(self._times) > self._most:
            self.give()
            self._series_id = series_id
        for at, kind, position, value in rows:
            self._positions.append(int(position))
            self._times.append(int(at))
            self._values.append(0.0 if kind == TEXT else value)

    def give(self) -> None:
        """By position and time."""
        times, values = self._times, self._values
        if times:
            numpy = importlib.import_module("numpy")
            places = numpy.lexsort((numpy.frombuffer(times, "q"), numpy.frombuffer(self._positions, "q")))
            for start in range(0, len(places), POINTS_AT_ONCE):
                some = places[start : start + POINTS_AT_ONCE].tolist()
                self._take(self._series_id, [(times[place], values[place]) for place in some])
        self._positions, self._times, self._values = array("q"), array("q"), array("d")

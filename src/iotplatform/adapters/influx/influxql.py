"""Parts of InfluxQL statements. Names from outside become literals here, and nowhere else."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import groupby
from operator import itemgetter
from typing import Final

import msgspec

from iotplatform.adapters.influx.answers import Series
from iotplatform.adapters.influx.lines import FIRST_US, LAST_US, decode_name, encode_name, literal
from iotplatform.domain.telemetry import SeriesKey

# A condition that names whole devices costs InfluxDB a tenth of one that names each of their series, but all that it
# finds is held open there at once.
SERIES_AT_ONCE: Final = 500
SENSORS_AT_ONCE: Final = 50


class Portion(msgspec.Struct, frozen=True):
    """Some series, in the order in which InfluxDB gives them, and the condition that finds them and perhaps others."""

    keys: list[SeriesKey]
    condition: str


def of_epoch(epoch: int) -> str:
    return f"\"epoch\" = '{epoch}'"


def key_of(series: Series) -> SeriesKey:
    return series.tags["device"], decode_name(series.tags["sensor"])


def of_series(keys: Sequence[SeriesKey]) -> str:
    some = (f'("device" = {literal(device)} AND "sensor" = {literal(encode_name(sensor))})' for device, sensor in keys)
    return f"({' OR '.join(some)})"


def of_devices(device_ids: Iterable[str]) -> str:
    some = (f'"device" = {literal(device_id)}' for device_id in device_ids)
    return f"({' OR '.join(some)})"


def of_sensors(sensors: Iterable[str]) -> str:
    some = (f'"sensor" = {literal(encode_name(sensor))}' for sensor in sensors)
    return f"({' OR '.join(some)})"


def within(since: int | None, until: int | None) -> str:
    """A range of time with both ends: without an upper one InfluxDB takes the present moment where it groups."""
    first = max(FIRST_US, 0 if since is None else since)
    behind = LAST_US if until is None else min(until, LAST_US)
    return f"time >= {first}u AND time < {behind}u"


def portions(keys: Sequence[SeriesKey], sensors: Sequence[str], partly: set[str]) -> Iterable[Portion]:
    """Cut where InfluxDB would give them in another order: it sorts by the bytes of its tags, whatever the list does.

    `sensors` are those that were asked for; of the devices in `partly` the list has not all of them.
    """
    gathered: list[SeriesKey] = []
    some_sensors = f" AND {of_sensors(sensors)}" if sensors else ""

    def whole() -> Portion:
        return Portion(gathered, of_devices(dict.fromkeys(key[0] for key in gathered)) + some_sensors)

    for device_id, found in groupby(keys, itemgetter(0)):
        of_device = list(found)
        ordered = len(of_device) <= SERIES_AT_ONCE and _sorted_until(of_device, 0, len(of_device)) == len(of_device)
        entire = ordered and device_id not in partly
        fits = len(gathered) + len(of_device) <= SERIES_AT_ONCE and (
            not gathered or _place(gathered[-1]) < _place(of_device[0])
        )
        if gathered and not (entire and fits):
            yield whole()
            gathered = []
        if entire:
            gathered = gathered + of_device
            continue
        start = 0
        while start < len(of_device):
            end = _sorted_until(of_device, start, start + SENSORS_AT_ONCE)
            run = of_device[start:end]
            yield Portion(run, f"{of_devices([device_id])} AND {of_sensors(sensor for _, sensor in run)}")
            start = end
    if gathered:
        yield whole()


def _sorted_until(keys: Sequence[SeriesKey], start: int, most: int) -> int:
    end = start + 1
    while end < min(most, len(keys)) and _place(keys[end - 1]) < _place(keys[end]):
        end += 1
    return end


def _place(key: SeriesKey) -> tuple[bytes, bytes]:
    return key[0].encode(), encode_name(key[1]).encode()

"""The seam of the telemetry stores: what is asked of the place where readings are kept."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import msgspec

from iotplatform.domain.explanation import SeenReading
from iotplatform.domain.reading import Reading, Value
from iotplatform.errors import PlatformError

SeriesKey = tuple[str, str]
# A device, a sensor, and a time in microseconds: where a page ends.
Place = tuple[str, str, int]
# A reading, and the position of its block in the stream.
Entry = tuple[Reading, int]
# For each series, (device, sensor), its newest reading: time, position, value.
Newest = dict[tuple[str, str], tuple[int, int, Value]]


class UnstorableData(PlatformError):
    """The store refuses the data itself; trying again changes nothing."""


class TelemetryRange(msgspec.Struct, frozen=True):
    """Readings of some series in [since, until); nothing given means all of them."""

    device_ids: tuple[str, ...] = ()
    sensors: tuple[str, ...] = ()
    since: int | None = None
    until: int | None = None


class LastReadings(msgspec.Struct, frozen=True):
    """In the order of the stream."""

    sensor: str
    readings: list[SeenReading]


class TelemetryStore(Protocol):
    """Readings of organizations, each known by its epoch. How they come in is persistence's affair.

    Every method raises `Unavailable` while the server is away.
    """

    async def page(self, epoch: int, limit: int, after: Place | None, wanted: TelemetryRange) -> list[Reading]:
        """By device, sensor and time; `after` is the place of the last one of the page before."""

    async def latest(self, epoch: int, device_ids: Sequence[str], after: SeriesKey | None, limit: int) -> list[Reading]:
        """The newest reading of each series (of some devices) beyond `after`, by device and sensor as text."""

    async def newest(self, epoch: int) -> Newest: ...

    async def last_readings(
        self, epoch: int, device_id: str, sensors: list[str], *, after: str, limit: int, readings: int
    ) -> list[LastReadings]:
        """Of a device's series, by sensor, those beyond `after`; of each this many readings at most."""

    async def remove_organization(self, epoch: int) -> None:
        """Every reading that is there now."""

    async def remove_device(self, epoch: int, device_id: str, cut: int) -> None:
        """Its readings up to the position `cut`; what is behind it belongs to another device of the same id."""

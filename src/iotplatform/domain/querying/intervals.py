"""The intervals of an aggregate: fixed lengths count from 1970 in UTC, calendar units follow a time zone."""

from __future__ import annotations

import datetime as dt
import re
from collections.abc import Iterator
from functools import lru_cache
from typing import Final, Literal, get_args
from zoneinfo import ZoneInfo, available_timezones

import msgspec

from iotplatform.domain.timestamps import MICROSECONDS, to_datetime, to_microseconds

Unit = Literal["s", "m", "h", "d", "w", "mo", "y"]
_UNITS: Final = get_args(Unit)
_FORM: Final = re.compile(r"([0-9]{1,6})([a-z]{1,2})")
_SECONDS: Final = {"s": 1, "m": 60, "h": 3_600}
# Roughly, to tell how many intervals a range has before they are made.
_SHORTEST_S: Final = {**_SECONDS, "d": 82_800, "w": 601_200, "mo": 2_415_600, "y": 31_532_400}
# Days are counted from the first of 1970, weeks from a Monday.
_FIRST_DAY: Final = dt.date(1970, 1, 1).toordinal()
_FIRST_MONDAY: Final = dt.date(1969, 12, 29).toordinal()
# 9999-12-01: what begins later has no end that a datetime can hold.
LAST_US: Final = 253_399_622_400_000_000


class Interval(msgspec.Struct, frozen=True):
    count: int
    unit: Unit
    zone: ZoneInfo

    @property
    def fixed_us(self) -> int | None:
        """Its length; None for a calendar unit, which has none."""
        seconds = _SECONDS.get(self.unit)
        return None if seconds is None else self.count * seconds * MICROSECONDS

    @property
    def shortest_us(self) -> int:
        return self.count * _SHORTEST_S[self.unit] * MICROSECONDS

    def start(self, at: int) -> int:
        """Of the interval in which `at` lies."""
        if fixed := self.fixed_us:
            return at - at % fixed
        index = self._index(to_datetime(min(at, LAST_US)).astimezone(self.zone).date())
        # A clock that is put back over midnight shows the day before once more: that belongs to the day that has begun.
        return following if (following := self._start_of(index + 1)) <= at else self._start_of(index)

    def after(self, start: int) -> int:
        """The start of the next one."""
        if fixed := self.fixed_us:
            return start + fixed
        # Twelve hours into its first day: no change of a clock is that large.
        inside = to_datetime(start) + dt.timedelta(hours=12)
        return self._start_of(self._index(inside.astimezone(self.zone).date()) + 1)

    def starts(self, since: int, until: int) -> Iterator[int]:
        """Of all the intervals that have a part in [since, until)."""
        start = self.start(since)
        while start < until:
            yield start
            start = self.after(start)

    def _index(self, day: dt.date) -> int:
        match self.unit:
            case "d":
                return (day.toordinal() - _FIRST_DAY) // self.count
            case "w":
                return (day.toordinal() - _FIRST_MONDAY) // (7 * self.count)
            case "mo":
                return ((day.year - 1970) * 12 + day.month - 1) // self.count
            case _:
                return (day.year - 1970) // self.count

    def _start_of(self, index: int) -> int:
        """Midnight of its first day there; the first of two, and the moment of the jump where midnight is skipped."""
        first = index * self.count
        try:
            match self.unit:
                case "d":
                    day = dt.date.fromordinal(_FIRST_DAY + first)
                case "w":
                    day = dt.date.fromordinal(_FIRST_MONDAY + 7 * first)
                case "mo":
                    day = dt.date(1970 + first // 12, first % 12 + 1, 1)
                case _:
                    day = dt.date(1970 + first, 1, 1)
            return to_microseconds(dt.datetime(day.year, day.month, day.day, tzinfo=self.zone).astimezone(dt.UTC))
        except (ValueError, OverflowError):
            return LAST_US * 2


def parse_interval(text: str, zone: ZoneInfo) -> Interval:
    """Raises ValueError with a sentence for the sender."""
    match = _FORM.fullmatch(text)
    if match is None or match[2] not in _UNITS or int(match[1]) == 0:
        raise ValueError("must be a whole number and one of s, m, h, d, w, mo, y, such as 15m or 1mo")
    interval = Interval(int(match[1]), msgspec.convert(match[2], Unit), zone)
    if interval.shortest_us > 1_000 * 366 * 86_400 * MICROSECONDS:
        raise ValueError("must not be longer than 1,000 years")
    return interval


@lru_cache(1)
def _zones() -> frozenset[str]:
    return frozenset(available_timezones())


def parse_zone(name: str) -> ZoneInfo:
    """Raises ValueError with a sentence for the sender. Reads files: not for the event loop."""
    # Looked up in the list first: the name becomes a path.
    if name not in _zones():
        raise ValueError("must be a time zone of the IANA database, such as Europe/Berlin")
    return ZoneInfo(name)

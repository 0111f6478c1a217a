"""Times are int64 microseconds since 1970 (UTC). This is where other notations become that, and back."""

from __future__ import annotations

import datetime as dt
import re
from typing import Annotated, Final

import msgspec

MICROSECONDS: Final = 1_000_000
_DAY_US: Final = 24 * 3600 * MICROSECONDS
MAX_AHEAD_US: Final = _DAY_US

_UTC_EPOCH: Final = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)
_LEAP_SECOND: Final = re.compile(r"(.{10}[Tt ]\d\d:\d\d:)60(.*)", re.ASCII)
_Moment = Annotated[dt.datetime, msgspec.Meta(tz=True)]


def parse_timestamp(value: float | str) -> int:
    """Microseconds for an epoch number (its unit told by its size) or an RFC 3339 string.

    Raises:
        ValueError: with a sentence for the sender.
    """
    if isinstance(value, bool):
        raise ValueError("must be an epoch number or an RFC 3339 string, not a boolean")  # noqa: TRY004
    if isinstance(value, str):
        return _parse_rfc3339(value)
    if value < 0:
        raise ValueError("must not be before 1970-01-01T00:00:00Z")
    if value >= 1e20:
        raise ValueError("is too large for a time")
    if value < 1e11:
        return round(value * MICROSECONDS)
    if value < 1e14:
        return round(value * 1_000)
    if value < 1e17:
        return round(value)
    return int(value) // 1_000


def _parse_rfc3339(text: str) -> int:
    leap = _LEAP_SECOND.fullmatch(text)
    try:
        moment = msgspec.convert(f"{leap[1]}59{leap[2]}" if leap else text, _Moment)
    except msgspec.ValidationError:
        raise ValueError("is no RFC 3339 time such as 2026-01-31T12:00:00Z") from None
    microseconds = to_microseconds(moment)
    if leap:
        # Epoch time has no place for a leap second: it is the first second of the next day, in UTC.
        microseconds += MICROSECONDS
        if microseconds % _DAY_US >= MICROSECONDS:
            raise ValueError("names a second 60 that is no leap second: those end a day in UTC")
    if microseconds < 0:
        raise ValueError("must not be before 1970-01-01T00:00:00Z")
    return microseconds


def check_not_ahead(at_us: int, now_us: int) -> None:
    """Refuse a time more than 24 hours ahead of `now_us`: a wrong clock must not hide every later reading."""
    if at_us > now_us + MAX_AHEAD_US:
        raise ValueError("is more than 24 hours ahead of the server's clock")


def to_datetime(at_us: int) -> dt.datetime:
    return _UTC_EPOCH + dt.timedelta(microseconds=at_us)


def to_microseconds(moment: dt.datetime) -> int:
    return (moment - _UTC_EPOCH) // dt.timedelta(microseconds=1)


def format_timestamp(at_us: int) -> str:
    """RFC 3339 in UTC with microseconds, as every answer of the platform shows times."""
    return f"{to_datetime(at_us):%Y-%m-%dT%H:%M:%S.%f}Z"

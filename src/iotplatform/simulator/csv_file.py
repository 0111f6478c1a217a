"""A CSV file of `timestamp,value` as one device: checked to the last line before the first reading leaves."""

from __future__ import annotations

import csv
import math
import re
from array import array
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Final

from iotplatform.errors import Rejected
from iotplatform.simulator.traffic import Due, Reading, Series, Traffic

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND: Final = timedelta(microseconds=1)
# A time zone can push a time beyond the last one that `datetime` holds.
_LAST_US: Final = (datetime.max.replace(tzinfo=UTC) - _EPOCH) // _MICROSECOND
_HEADER: Final = ("timestamp", "value")
_COLUMNS: Final = len(_HEADER)
_NUMBER: Final = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d{1,4})?", re.ASCII)
# Narrower than `fromisoformat`, which also takes week dates and bare dates and would hide a broken column.
_DATE_TIME: Final = re.compile(r"\d{4}-\d\d-\d\d[Tt ]\d\d:\d\d:\d\d(\.\d+)?([Zz]|[+-]\d\d:\d\d)?", re.ASCII)
# The contract's rule for the unit of an epoch number: (below this, microseconds per unit).
_EPOCH_UNITS: Final = (
    (Decimal("1e11"), Decimal(1_000_000)),
    (Decimal("1e14"), Decimal(1_000)),
    (Decimal("1e17"), Decimal(1)),
    (Decimal("1e20"), Decimal("0.001")),
)


class CsvFile:
    """The readings of one file, 16 bytes each, so that a file of millions of lines fits as well."""

    def __init__(self, times_us: array[int], values: array[float]) -> None:
        self._times_us = times_us
        self._values = values

    def __len__(self) -> int:
        return len(self._values)

    def __iter__(self) -> Iterator[tuple[datetime, float]]:
        for time_us, value in zip(self._times_us, self._values, strict=True):
            yield _EPOCH + timedelta(microseconds=time_us), value

    def replay(self, series: Series, rate: float | None) -> Traffic:
        """The whole file as one lane, in file order; without a rate everything is due at once."""
        return Traffic(lanes=[self._lane(series, rate)], total=len(self))

    def _lane(self, series: Series, rate: float | None) -> Iterator[Due]:
        for number, (time, value) in enumerate(self):
            reading = Reading(series.organization_id, series.device_id, series.sensor_name, value, time)
            yield Due(number / rate if rate else 0.0, reading)


def read_csv(path: Path) -> CsvFile:
    """Raises:
    Rejected: the file can't be read, or a line is not a reading; the message names the file and the line.
    """
    try:
        # `utf-8-sig`: spreadsheets begin their exports with a byte order mark.
        with path.open(encoding="utf-8-sig", newline="") as lines:
            return _parse(path, lines)
    except OSError as error:
        raise Rejected("malformed", f"cannot read {path}: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        raise Rejected("malformed", f"{path} is not UTF-8 text: {error.reason} at byte {error.start}") from error


def _parse(path: Path, lines: Iterable[str]) -> CsvFile:
    times_us, values = array("q"), array("d")
    rows = csv.reader(lines, strict=True)
    first = True
    try:
        for row in rows:
            if not row:
                continue
            is_header = first and tuple(cell.strip().lower() for cell in row) == _HEADER
            first = False
            if is_header:
                continue
            if len(row) != _COLUMNS:
                raise ValueError(f"expected the two columns timestamp,value and found {len(row)}")
            times_us.append(_microseconds(row[0].strip()))
            values.append(_value(row[1].strip()))
    except (ValueError, csv.Error) as error:
        if isinstance(error, UnicodeDecodeError):
            raise
        raise Rejected("malformed", f"{path}, line {max(rows.line_num, 1)}: {error}") from error
    if not values:
        raise Rejected("malformed", f"{path} holds no readings (expected lines of timestamp,value)")
    return CsvFile(times_us, values)


def _value(text: str) -> float:
    # `float` alone would take `nan`, `1_000` and digits of other scripts.
    value = float(text) if _NUMBER.fullmatch(text) else math.nan
    if not math.isfinite(value):
        raise ValueError(f"the value {_shown(text)} is not a finite number")
    return value


def _microseconds(text: str) -> int:
    if _NUMBER.fullmatch(text):
        return _epoch_microseconds(text)
    if not _DATE_TIME.fullmatch(text):
        raise ValueError(
            f"the timestamp {_shown(text)} is neither YYYY-MM-DD HH:MM:SS nor RFC 3339 nor an epoch number"
        )
    try:
        time = datetime.fromisoformat(text.upper())
    except ValueError as error:
        raise ValueError(f"the timestamp {_shown(text)} does not exist: {error}") from error
    if time.tzinfo is None:
        time = time.replace(tzinfo=UTC)
    since_epoch = (time - _EPOCH) // _MICROSECOND
    if not 0 <= since_epoch <= _LAST_US:
        raise ValueError(f"the timestamp {_shown(text)} lies outside the years 1970 to 9999")
    return since_epoch


def _epoch_microseconds(text: str) -> int:
    # Decimal, because a float loses the microseconds of a number with a fraction.
    number = Decimal(text)
    if number < 0:
        raise ValueError(f"the timestamp {_shown(text)} lies before 1970")
    for below, microseconds in _EPOCH_UNITS:
        if number < below:
            return int(number * microseconds)
    raise ValueError(f"the timestamp {_shown(text)} is too large for an epoch number")


def _shown(text: str) -> str:
    most = 60
    return repr(text if len(text) <= most else text[:most] + "…")

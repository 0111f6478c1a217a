"""Readings as line protocol, and names as InfluxDB can hold them.

A reading is a point of the measurement `readings`. Its tags are the device, the sensor, the organization and its epoch;
its fields are `value` (numbers, and booleans as 0 and 1), `text`, `kind` (which of them it is) and `position`. Fields
have one type each, so that a sensor may send a number today and a text tomorrow.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Final

from iotplatform.domain.reading import Value
from iotplatform.domain.telemetry import Entry

MEASUREMENT: Final = "readings"
NUMBER, BOOLEAN, TEXT = 0, 1, 2
MAX_KNOWN_HEADS: Final = 200_000

# InfluxDB counts 64 bits of nanoseconds, without the very first and last.
FIRST_US: Final = -9_223_372_036_854_774
LAST_US: Final = 9_223_372_036_854_774

# A tag can't end with a backslash, nor hold one before a comma: it would be an escape. So names hold none.
_percent = re.compile(r"%(?=25|5C)")
_backslash = re.compile(r"%25(?=25|5C)|%5C")
_special = re.compile(r"([,= ])")
_unwritable = re.compile(r"[\x00-\x1f\x7f]")

Lines = dict[tuple[str, int], str]


class Unwritable(ValueError):
    """InfluxDB has no place for it; the message says why."""


class Heads:
    """The beginnings of lines, which are the same for all readings of a series."""

    def __init__(self) -> None:
        self._known: dict[tuple[int, str, str], str] = {}

    def of(self, epoch: int, organization_id: str, device_id: str, sensor: str) -> str:
        key = (epoch, device_id, sensor)
        head = self._known.get(key)
        if head is None:
            tags = (("device", device_id), ("epoch", str(epoch)), ("organization", organization_id), ("sensor", sensor))
            head = MEASUREMENT + "".join(f",{name}={_tag(value)}" for name, value in tags)
            if len(self._known) >= MAX_KNOWN_HEADS:
                self._known.clear()
            self._known[key] = head
        return head


def add_lines(lines: Lines, heads: Heads, epoch: int, organization_id: str, entries: Iterable[Entry]) -> None:
    """Put the lines of readings into `lines`: one for each series and time, the last in stream order.

    Raises:
        Unwritable: InfluxDB can't hold one of them.
    """
    for reading, position in entries:
        at, value = reading.at, reading.value
        if not FIRST_US <= at <= LAST_US:
            raise Unwritable(f"InfluxDB has no place for the time {at} µs: it keeps those of 1678 to 2262")
        head = heads.of(epoch, organization_id, reading.device_id, reading.sensor)
        if isinstance(value, str):
            try:
                value.encode()
            except UnicodeEncodeError as error:
                raise Unwritable(f"the text is no UTF-8: {error}") from error
            escaped = value.replace("\\", "\\\\").replace('"', '\\"')
            fields = f'kind=2i,position={position}i,text="{escaped}"'
        elif value is True or value is False:
            fields = f"kind=1i,position={position}i,value={value:d}"
        else:
            fields = f"kind=0i,position={position}i,value={value!r}"
        lines[head, at] = f"{head} {fields} {at}"


def encode_name(name: str) -> str:
    r"""The name as it stands in a tag: `\` is written `%5C`, and a `%` that could be mistaken for one `%25`."""
    if "\\" in name or "%" in name:
        return _percent.sub("%25", name).replace("\\", "%5C")
    return name


def decode_name(tag: str) -> str:
    return _backslash.sub(lambda found: "\\" if found[0] == "%5C" else "%", tag) if "%" in tag else tag


def value_of(kind: int, value: float | None, text: str | None) -> Value:
    """The value of a point; what stood there before it was overwritten with another type is left aside."""
    if kind == TEXT:
        return text or ""
    number = value or 0.0
    return bool(number) if kind == BOOLEAN else float(number)


def literal(text: str) -> str:
    """A string of InfluxQL."""
    escaped = text.replace("\\", "\\\\").replace("'", "\\'")
    return f"'{escaped}'"


def _tag(value: str) -> str:
    if not value or _unwritable.search(value):
        raise Unwritable(f"InfluxDB can't hold the name {value!r}: it is empty or has control characters")
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise Unwritable(f"the name is no UTF-8: {error}") from error
    return _special.sub(r"\\\1", encode_name(value))

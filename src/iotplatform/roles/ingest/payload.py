"""JSON bodies of `/ingest` to readings, the quick way: one pass of a typed decoder and one over what it gave.

What has a fault, or another shape than the platform's own, is looked at by `domain.payloads`, which knows every shape
and names every reading and field that is wrong. Pure functions: the time of arrival is an argument.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from typing import Final

import msgspec

from iotplatform.domain.payloads.admission import (
    MAX_FAULTS,
    Sender,
    known_identifier_fault,
    known_sensor_fault,
    value_fault,
)
from iotplatform.domain.payloads.formats import JSON
from iotplatform.domain.payloads.formats import decode as decode_format
from iotplatform.domain.payloads.json_shapes import Entry
from iotplatform.domain.reading import Reading, Value
from iotplatform.domain.timestamps import MAX_AHEAD_US, parse_timestamp

__all__ = ["MAX_FAULTS", "Admitted", "Sender", "blame", "decode", "decode_plainly"]


class Admitted(msgspec.Struct, frozen=True):
    organization_id: str
    readings: list[Reading]


_decoder = msgspec.json.Decoder(Entry | list[Entry])


def decode(body: bytes, *, arrived_at: int, sender: Sender | None = None) -> Admitted:
    """The readings of a body, all of them or none.

    Raises:
        Rejected: `malformed` when it is no JSON, `invalid` with one fault for each field that is wrong, `forbidden`
            when it speaks for somebody else than its sender.
    """
    if plain := decode_plainly(body, arrived_at=arrived_at, sender=sender):
        return plain
    decoded = decode_format(JSON, body, arrived_at=arrived_at, sender=sender)
    decoded.require_all()
    assert decoded.organization_id is not None  # noqa: S101 - every element without a fault names it
    return Admitted(decoded.organization_id, decoded.readings)


def decode_plainly(body: bytes, *, arrived_at: int, sender: Sender | None = None) -> Admitted | None:
    """What `decode` gives for a body in which nothing is wrong; None for one that it must look at."""
    try:
        decoded = _decoder.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
    entries = [decoded] if isinstance(decoded, Entry) else decoded
    if sender is not None and not _fill_in(entries, sender):
        return None
    return _admit_plainly(entries, arrived_at)


def _fill_in(entries: list[Entry], sender: Sender) -> bool:
    """False when one speaks for somebody else."""
    organization_id, device_id = sender.organization_id, sender.device_id
    for entry in entries:
        if entry.organization_id is None:
            entry.organization_id = organization_id
        if entry.device_id is None:
            entry.device_id = device_id
        if entry.organization_id != organization_id or (device_id is not None and entry.device_id != device_id):
            return False
    return True


def _admit_plainly(entries: list[Entry], arrived_at: int) -> Admitted | None:
    """One pass over entries that name everything; None as soon as one has a fault, or a form that takes more care."""
    organization_id = entries[0].organization_id if entries else None
    if organization_id is None or known_identifier_fault(organization_id):
        return None
    readings: list[Reading] = []
    latest = arrived_at + MAX_AHEAD_US
    for entry in entries:
        device_id = entry.device_id
        if entry.organization_id != organization_id or device_id is None or known_identifier_fault(device_id):
            return None
        at = arrived_at
        if entry.timestamp is not None:
            try:
                at = parse_timestamp(entry.timestamp)
            except (ValueError, OverflowError):
                return None
            if at > latest:
                return None
        pairs = _pairs_of(entry)
        if not pairs:
            return None
        for sensor, value in pairs:
            if known_sensor_fault(sensor) or not _is_plain(value):
                return None
            readings.append(Reading(device_id, sensor, value, at))  # type: ignore[arg-type]
    return Admitted(organization_id, readings)


def _pairs_of(entry: Entry) -> Iterable[tuple[str, Value | msgspec.UnsetType]] | None:
    if entry.values is None:
        return None if entry.sensor_name is None else ((entry.sensor_name, entry.value),)
    return entry.values.items() if entry.sensor_name is None and entry.value is msgspec.UNSET else None


def _is_plain(value: Value | msgspec.UnsetType) -> bool:
    kind = type(value)
    if kind is float:
        return math.isfinite(value)  # type: ignore[arg-type]
    return kind is bool or (isinstance(value, str) and value_fault(value) is None)


class _Named(msgspec.Struct):
    organization_id: str | None = None


GLANCE_BYTES: Final = 512
_EARLY: Final = re.compile(rb'"organization_id"\s*:\s*"([A-Za-z0-9_-]{1,64})"')
_named_decoder = msgspec.json.Decoder(_Named | list[_Named])


def named_early(body: bytes) -> str | None:
    """The organization that a body names near its beginning, at the cost of a glance. It may turn out to be no body at
    all.
    """
    found = _EARLY.search(body, 0, GLANCE_BYTES)
    return found[1].decode() if found else None


def count_at_a_glance(body: bytes) -> int:
    """About how many readings a body has that is not to be decoded."""
    return max(1, body.count(b'"value"'))


def blame(body: bytes) -> tuple[str | None, int]:
    """The organization that a refused body names, if it names one, and how many elements it has."""
    try:
        named = _named_decoder.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None, 1
    if isinstance(named, _Named):
        return named.organization_id, 1
    return next((entry.organization_id for entry in named if entry.organization_id), None), len(named)

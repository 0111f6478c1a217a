"""JSON bodies of `/ingest` to readings. Pure functions: the time of arrival is an argument.

Three shapes, alone or in an array: one reading, `{…"value"}`, or several of one device at one time, `{…"values": {}}`.
A well-formed body takes one pass of a typed decoder. Only when that fails is it looked at again piece by piece, to name
every reading and field that is wrong.
"""

from __future__ import annotations

import functools
import math
import re
from collections.abc import Iterable
from typing import Any, Final

import msgspec

from iotplatform.domain.identifiers import identifier_fault, sensor_fault
from iotplatform.domain.reading import MAX_TEXT_BYTES, Reading, Value
from iotplatform.domain.timestamps import MAX_AHEAD_US, check_not_ahead, parse_timestamp
from iotplatform.errors import Fault, Rejected

MAX_FAULTS: Final = 100


class Entry(msgspec.Struct, forbid_unknown_fields=True):
    """One element of a body."""

    organization_id: str | None = None
    device_id: str | None = None
    sensor_name: str | None = None
    value: Value | msgspec.UnsetType = msgspec.UNSET
    timestamp: int | float | str | None = None
    values: dict[str, Value] | None = None


class Sender(msgspec.Struct, frozen=True):
    """Who a device token speaks for; what it leaves out in a body is filled in from here."""

    organization_id: str
    device_id: str


class Admitted(msgspec.Struct, frozen=True):
    organization_id: str
    readings: list[Reading]


_decoder = msgspec.json.Decoder(Entry | list[Entry])
_any_decoder = msgspec.json.Decoder(float_hook=float)
_path = re.compile(r" - at `\$(?:\[(\d+|\.\.\.)\])?(?:\.([A-Za-z_]+))?")
_OUT_OF_RANGE: Final = "Number out of range"

known_identifier_fault = functools.lru_cache(maxsize=16_384)(identifier_fault)
known_sensor_fault = functools.lru_cache(maxsize=16_384)(sensor_fault)


def decode(body: bytes, *, arrived_at: int, sender: Sender | None = None) -> Admitted:
    """The readings of a body, all of them or none.

    Raises:
        Rejected: `malformed` when it is no JSON, `invalid` with one fault for each field that is wrong, `forbidden`
            when a device token's body speaks for somebody else.
    """
    try:
        decoded = _decoder.decode(body)
    except msgspec.ValidationError as error:
        raise Rejected("invalid", "the body does not describe readings", faults=_find_faults(body, error)) from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        if _OUT_OF_RANGE in str(error):
            fault = Fault("a number is too large to be stored")
            raise Rejected("invalid", "the body holds a number that can't be stored", faults=(fault,)) from None
        raise _malformed(error) from None
    entries = [decoded] if isinstance(decoded, Entry) else decoded
    if not entries:
        raise Rejected("invalid", "the body holds no reading", faults=(Fault("must hold at least one reading"),))
    if sender is None and (plain := _admit_plainly(entries, arrived_at)):
        return plain
    return _Admission(isinstance(decoded, Entry), arrived_at, sender).admit(entries)


def decode_plainly(body: bytes, *, arrived_at: int) -> Admitted | None:
    """What `decode` gives without a sender, for a body in which nothing is wrong; None for one that it must look at."""
    try:
        decoded = _decoder.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
    return _admit_plainly([decoded] if isinstance(decoded, Entry) else decoded, arrived_at)


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


class _Admission:
    """One body on its way in."""

    def __init__(self, alone: bool, arrived_at: int, sender: Sender | None) -> None:  # noqa: FBT001 - private
        self._alone = alone
        self._arrived_at = arrived_at
        self._sender = sender
        self._faults: list[Fault] = []
        self._organization_id: str | None = None
        self._readings: list[Reading] = []

    def admit(self, entries: list[Entry]) -> Admitted:
        for index, entry in enumerate(entries):
            self._take(entry, None if self._alone else index)
            if len(self._faults) >= MAX_FAULTS:
                break
        if self._faults:
            raise Rejected("invalid", "the body has readings that can't be accepted", faults=tuple(self._faults))
        assert self._organization_id is not None  # noqa: S101 - every entry without a fault names it
        return Admitted(self._organization_id, self._readings)

    def _take(self, entry: Entry, index: int | None) -> None:
        before = len(self._faults)
        device_id = self._check_names(entry, index)
        at = self._check_time(entry, index)
        if entry.values is not None:
            if entry.value is not msgspec.UNSET or entry.sensor_name is not None:
                self._fault(index, "values", "can't stand beside sensor_name and value")
            elif not entry.values:
                self._fault(index, "values", "must hold at least one value")
            pairs = list(entry.values.items())
        elif entry.sensor_name is None:
            self._fault(index, "sensor_name", "is required")
            return
        elif isinstance(entry.value, msgspec.UnsetType):
            self._fault(index, "value", "is required")
            return
        else:
            pairs = [(entry.sensor_name, entry.value)]
        for sensor, value in pairs:
            if fault := known_sensor_fault(sensor):
                self._fault(index, "values" if entry.values is not None else "sensor_name", fault)
            if fault := value_fault(value):
                self._fault(index, f"values.{sensor}"[:80] if entry.values is not None else "value", fault)
        if len(self._faults) == before:
            self._readings += [Reading(device_id, sensor, value, at) for sensor, value in pairs]

    def _check_names(self, entry: Entry, index: int | None) -> str:
        organization_id, device_id = entry.organization_id, entry.device_id
        if sender := self._sender:
            if organization_id not in {None, sender.organization_id} or device_id not in {None, sender.device_id}:
                raise Rejected("forbidden", "this device token writes for its own device only")
            organization_id, device_id = sender.organization_id, sender.device_id
        if organization_id is None:
            self._fault(index, "organization_id", "is required")
        elif organization_id != self._organization_id:
            if fault := known_identifier_fault(organization_id):
                self._fault(index, "organization_id", fault)
            elif self._organization_id is None:
                self._organization_id = organization_id
            else:
                self._fault(
                    index, "organization_id", "differs from that of the readings before: one organization a request"
                )
        if device_id is None:
            self._fault(index, "device_id", "is required")
        elif fault := known_identifier_fault(device_id):
            self._fault(index, "device_id", fault)
        return device_id or ""

    def _check_time(self, entry: Entry, index: int | None) -> int:
        if entry.timestamp is None:
            return self._arrived_at
        try:
            at = parse_timestamp(entry.timestamp)
            check_not_ahead(at, self._arrived_at)
        except (ValueError, OverflowError) as error:
            self._fault(index, "timestamp", str(error))
            return 0
        return at

    def _fault(self, index: int | None, field: str, detail: str) -> None:
        self._faults.append(Fault(detail, index, field))


class _Named(msgspec.Struct):
    organization_id: str | None = None


_named_decoder = msgspec.json.Decoder(_Named | list[_Named])


def blame(body: bytes) -> tuple[str | None, int]:
    """The organization that a refused body names, if it names one, and how many elements it has."""
    try:
        named = _named_decoder.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None, 1
    if isinstance(named, _Named):
        return named.organization_id, 1
    return next((entry.organization_id for entry in named if entry.organization_id), None), len(named)


def value_fault(value: Value) -> str | None:
    """Why a value can't be stored; None when it can."""
    if type(value) is float:
        return None if math.isfinite(value) else "must be a finite number"
    if isinstance(value, str):
        if len(value.encode()) > MAX_TEXT_BYTES:
            return f"must be at most {MAX_TEXT_BYTES} bytes of UTF-8"
        if "\x00" in value:
            return "must not contain the character NUL"
    return None


def _malformed(error: Exception) -> Rejected:
    return Rejected("malformed", f"the body is not JSON: {error}")


def _find_faults(body: bytes, first: msgspec.ValidationError) -> tuple[Fault, ...]:
    """Every element that does not fit, by converting them one by one; `first` is what the typed decoder said.

    Raises:
        Rejected: `malformed`, when the body is no JSON behind the place where the typed decoder stopped.
    """
    try:
        decoded: Any = _any_decoder.decode(body)
    except msgspec.ValidationError:  # an integer beyond every bound
        return (_fault_of(first, None),)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise _malformed(error) from None
    if not isinstance(decoded, list):
        return (_fault_of(first, None),)
    faults: list[Fault] = []
    for index, item in enumerate(decoded):
        try:
            entry = msgspec.convert(item, Entry)
        except msgspec.ValidationError as error:
            faults.append(_fault_of(error, index))
        else:
            faults += [Fault(_OUT_OF_RANGE, index, field) for field in _infinite_fields(entry)]
        if len(faults) >= MAX_FAULTS:
            break
    return tuple(faults) or (_fault_of(first, None),)


def _infinite_fields(entry: Entry) -> list[str]:
    """Fields with a number that is out of range, which JSON itself allows and a float has no other place for."""
    given: list[tuple[str, object]] = [("value", entry.value), ("timestamp", entry.timestamp)]
    given += [("values", value) for value in (entry.values or {}).values()]
    return [field for field, value in given if isinstance(value, float) and math.isinf(value)]


def _fault_of(error: msgspec.ValidationError, index: int | None) -> Fault:
    text = str(error)
    if unknown := re.search(r"unknown field `(.*)`", text, re.DOTALL):
        return Fault("is unknown", index, unknown.group(1)[:80])
    found = _path.search(text)
    field = found.group(2) if found else None
    return Fault(text.split(" - at ", maxsplit=1)[0], index, field)

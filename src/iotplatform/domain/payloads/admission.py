"""From drafts to readings: the checks that hold for every format, and the faults of what does not pass them."""

from __future__ import annotations

import functools
import math
from collections.abc import Iterable
from typing import Any, Final

import msgspec

from iotplatform.domain.identifiers import MAX_IDENTIFIER, MAX_SENSOR_BYTES, identifier_fault, sensor_fault
from iotplatform.domain.payloads.draft import Draft
from iotplatform.domain.reading import MAX_TEXT_BYTES, Reading, Value
from iotplatform.domain.timestamps import check_not_ahead, parse_timestamp
from iotplatform.errors import Fault, Rejected

MAX_FAULTS: Final = 100
MAX_UNIT_BYTES: Final = 64

_identifier_fault = functools.lru_cache(maxsize=16_384)(identifier_fault)
_sensor_fault = functools.lru_cache(maxsize=16_384)(sensor_fault)


def known_identifier_fault(text: str) -> str | None:
    """What strangers send is remembered only as long as it could be an id."""
    return _identifier_fault(text) if len(text) <= MAX_IDENTIFIER else identifier_fault(text)


def known_sensor_fault(name: str) -> str | None:
    return _sensor_fault(name) if len(name) <= MAX_SENSOR_BYTES else sensor_fault(name)


class Sender(msgspec.Struct, frozen=True):
    """Whom a credential or a topic speaks for; what a body leaves out is filled in from here.

    Without a device it speaks for all those of its organization.
    """

    organization_id: str
    device_id: str | None = None


class Defaults(msgspec.Struct, frozen=True):
    """What a body may leave out, where it is free to say otherwise."""

    organization_id: str | None = None
    device_id: str | None = None


class Bad(msgspec.Struct, frozen=True):
    """An element that can't be accepted: everything that is wrong with it, and itself as it came."""

    faults: tuple[Fault, ...]
    source: Any
    device_id: str | None = None
    is_malformed: bool = False


class Decoded(msgspec.Struct):
    """What is in a body. `units` has what some formats say of a (device, sensor), `names` the names of devices."""

    organization_id: str | None = None
    readings: list[Reading] = msgspec.field(default_factory=list)
    bad: list[Bad] = msgspec.field(default_factory=list)
    units: dict[tuple[str, str], str] = msgspec.field(default_factory=dict)
    names: dict[str, str] = msgspec.field(default_factory=dict)

    def require_all(self) -> None:
        """For who takes all or nothing.

        Raises:
            Rejected: something is bad; one fault for each field, up to a bound. `malformed` goes before `invalid`.
        """
        if malformed := [bad for bad in self.bad if bad.is_malformed]:
            faults = tuple(fault for bad in malformed[:MAX_FAULTS] for fault in bad.faults)
            raise Rejected("malformed", "the body has readings that can't be parsed", faults=faults)
        if self.bad:
            faults = tuple(fault for bad in self.bad[:MAX_FAULTS] for fault in bad.faults)
            raise Rejected("invalid", "the body has readings that can't be accepted", faults=faults)


def admit(
    drafts: Iterable[Draft], arrived_at: int, sender: Sender | None = None, defaults: Defaults | None = None
) -> Decoded:
    """The readings of a body, and what is bad in it.

    Raises:
        Rejected: `forbidden` when it speaks for somebody else than `sender`; `invalid` when it names several
            organizations, or holds nothing at all.
    """
    admission = _Admission(arrived_at, sender, defaults or Defaults())
    for draft in drafts:
        admission.take(draft)
    decoded = admission.decoded
    if admission.mixed:
        raise Rejected("invalid", "the body has readings of several organizations", faults=(admission.mixed,))
    if not decoded.readings and not decoded.bad:
        raise Rejected("invalid", "the body holds no reading", faults=(Fault("must hold at least one reading"),))
    return decoded


class _Admission:
    """One body on its way in."""

    def __init__(self, arrived_at: int, sender: Sender | None, defaults: Defaults) -> None:
        self._arrived_at = arrived_at
        self._sender = sender
        self._defaults = defaults
        self.decoded = Decoded(sender.organization_id if sender else None)
        self.mixed: Fault | None = None

    def take(self, draft: Draft) -> None:
        if draft.is_unreadable:
            self._refuse(draft, None)
            return
        shape_faults, draft.faults = draft.faults, []
        device_id = self._check_names(draft)
        at = self._check_time(draft)
        draft.faults += shape_faults
        for sensor, value in draft.values.items():
            if fault := known_sensor_fault(sensor):
                draft.blame(draft.name_field or draft.field_of(sensor), fault)
            if fault := value_fault(value):
                draft.blame(draft.field_of(sensor), fault)
        for unit in draft.units.values():
            if fault := unit_fault(unit):
                draft.blame("u", fault)
        if draft.faults:
            self._refuse(draft, device_id or None)
            return
        decoded = self.decoded
        decoded.readings += [Reading(device_id, sensor, value, at) for sensor, value in draft.values.items()]
        for sensor, unit in draft.units.items():
            decoded.units[device_id, sensor] = unit
        if draft.device_name is not None:
            decoded.names[device_id] = draft.device_name

    def _refuse(self, draft: Draft, device_id: str | None) -> None:
        self.decoded.bad.append(Bad(tuple(draft.faults), draft.source, device_id, draft.is_malformed))

    def _check_names(self, draft: Draft) -> str:
        organization_id, device_id = draft.organization_id, draft.device_id
        if sender := self._sender:
            if organization_id not in {None, sender.organization_id} or (
                sender.device_id is not None and device_id not in {None, sender.device_id}
            ):
                raise Rejected("forbidden", "this credential writes for its own device or organization only")
            organization_id, device_id = sender.organization_id, sender.device_id or device_id
        organization_id = self._defaults.organization_id if organization_id is None else organization_id
        device_id = self._defaults.device_id if device_id is None else device_id
        self._check_organization(draft, organization_id)
        if device_id is None:
            draft.blame("device_id", "is required")
        elif fault := known_identifier_fault(device_id):
            draft.blame("device_id", fault)
        return device_id or ""

    def _check_organization(self, draft: Draft, organization_id: str | None) -> None:
        known = self.decoded.organization_id
        if organization_id is None:
            draft.blame("organization_id", "is required")
        elif organization_id != known:
            if fault := known_identifier_fault(organization_id):
                draft.blame("organization_id", fault)
            elif known is None:
                self.decoded.organization_id = organization_id
            elif self.mixed is None:
                detail = "differs from that of the readings before: one organization a request"
                self.mixed = Fault(detail, draft.index, "organization_id")

    def _check_time(self, draft: Draft) -> int:
        try:
            at = draft.at
            if at is None:
                if draft.timestamp is None:
                    return self._arrived_at
                at = parse_timestamp(draft.timestamp)
            elif at < 0:
                raise ValueError("must not be before 1970-01-01T00:00:00Z")
            check_not_ahead(at, self._arrived_at)
        except (ValueError, OverflowError) as error:
            draft.blame(draft.time_field, str(error))
            return 0
        return at


def value_fault(value: Value) -> str | None:
    """Why a value can't be stored; None when it can."""
    if type(value) is float:
        return None if math.isfinite(value) else "must be a finite number"
    if isinstance(value, str):
        if len(value.encode("utf-8", "surrogatepass")) > MAX_TEXT_BYTES:
            return f"must be at most {MAX_TEXT_BYTES} bytes of UTF-8"
        if "\x00" in value:
            return "must not contain the character NUL"
    return None


def unit_fault(unit: str) -> str | None:
    """Why a text can't be a unit; None when it can."""
    if len(unit.encode("utf-8", "surrogatepass")) > MAX_UNIT_BYTES:
        return f"must be at most {MAX_UNIT_BYTES} bytes of UTF-8"
    return known_sensor_fault(unit)

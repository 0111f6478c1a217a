"""What a dead letter holds, looked at once more: readings or a transition that can go their way again."""

from __future__ import annotations

import base64
import binascii
import math
from typing import Final

import msgspec

from iotplatform.domain.alarm import Transition, UnreadableTransition, decode_transition
from iotplatform.domain.dead_letter import DeadLetter
from iotplatform.domain.identifiers import identifier_fault, sensor_fault
from iotplatform.domain.organization import Organization
from iotplatform.domain.payloads.admission import Defaults, Sender
from iotplatform.domain.payloads.formats import JSON, decode
from iotplatform.domain.reading import MAX_TEXT_BYTES, Reading, UnreadableBlock, Value, decode_block
from iotplatform.domain.timestamps import check_not_ahead, parse_timestamp
from iotplatform.errors import Rejected

MAX_FAULTS: Final = 3
MAX_TOLD: Final = 500


class NotReplayable(ValueError):
    """The letter's data can't be used this time either; the message says why."""


class _Entry(msgspec.Struct):
    """A reading as JSON shows it, in the shapes that the door takes."""

    organization_id: str | None = None
    device_id: str | None = None
    sensor_name: str | None = None
    value: Value | msgspec.UnsetType = msgspec.UNSET
    values: dict[str, Value] | None = None
    timestamp: int | float | str | None = None


_entries = msgspec.json.Decoder(_Entry | list[_Entry])


def content_of(letter: DeadLetter, organization: Organization, now: int) -> list[Reading] | Transition:
    """What to publish again; readings without a time of their own get that at which the letter's data was received.

    Raises:
        NotReplayable: there is nothing in it that could be used.
    """
    if letter.encoding == "json" and letter.role == "ingest":
        readings = _readings_of_the_door(letter, organization, now)
    elif letter.encoding == "json":
        readings = _readings_in_json(letter, letter.payload.encode("utf-8", "surrogatepass"), organization)
    else:
        try:
            data = base64.b64decode(letter.payload, validate=True)
        except (ValueError, binascii.Error) as error:
            raise NotReplayable("the payload is no base64") from error
        if letter.role in {"notification", "persistence"} and letter.readings == 0 and data.startswith(b"{"):
            return _transition_in(data, organization)
        readings = _readings_in_json(letter, data, organization) if letter.role == "ingest" else _readings_in(data)
    faults = [f"reading {index}: {fault}" for index, reading in enumerate(readings) if (fault := _fault(reading, now))]
    if faults:
        more = f" (and {len(faults) - MAX_FAULTS} more)" if len(faults) > MAX_FAULTS else ""
        raise NotReplayable("; ".join(faults[:MAX_FAULTS]) + more)
    if not readings:
        raise NotReplayable("the payload holds no reading")
    return readings


def _readings_of_the_door(letter: DeadLetter, organization: Organization, now: int) -> list[Reading]:
    """As if its device had sent it once more, now; without a time of its own, it still arrived when it did.

    Whoever replays may write for every device: what one has said of another stays refused.
    """
    try:
        decoded = decode(
            JSON,
            letter.payload.encode("utf-8", "surrogatepass"),
            arrived_at=now,
            sender=Sender(organization.id, letter.device_id),
            defaults=Defaults(organization.id, letter.device_id),
        )
        decoded.require_all()
    except Rejected as error:
        told = "; ".join(f"{fault.field}: {fault.detail}" if fault.field else fault.detail for fault in error.faults)
        raise NotReplayable(told[:MAX_TOLD] or error.detail) from error
    return [
        msgspec.structs.replace(reading, at=letter.received_at) if reading.at == now else reading
        for reading in decoded.readings
    ]


def _readings_in(data: bytes) -> list[Reading]:
    try:
        return decode_block(data)
    except UnreadableBlock as error:
        raise NotReplayable(str(error)) from error


def _transition_in(data: bytes, organization: Organization) -> Transition:
    try:
        transition = decode_transition(data)
    except UnreadableTransition as error:
        raise NotReplayable(str(error)) from error
    if (transition.organization_id, transition.epoch) != (organization.id, organization.epoch):
        raise NotReplayable("the transition belongs to another organization")
    if fault := identifier_fault(transition.device_id):
        raise NotReplayable(f"the transition's device {fault}")
    return transition


def _readings_in_json(letter: DeadLetter, data: bytes, organization: Organization) -> list[Reading]:
    try:
        decoded = _entries.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise NotReplayable(f"the payload does not describe readings: {error}") from error
    readings: list[Reading] = []
    for entry in [decoded] if isinstance(decoded, _Entry) else decoded:
        if entry.organization_id not in {None, organization.id}:
            raise NotReplayable("the payload belongs to another organization")
        if letter.role == "ingest" and letter.device_id is not None and entry.device_id not in {None, letter.device_id}:
            raise NotReplayable("the payload names another device than the one it came from")
        device_id = entry.device_id or letter.device_id
        if device_id is None:
            raise NotReplayable("the payload names no device")
        at = _time_of(entry, letter)
        readings += [Reading(device_id, sensor, value, at) for sensor, value in _values_of(entry)]
    return readings


def _values_of(entry: _Entry) -> list[tuple[str, Value]]:
    if entry.values is not None:
        return list(entry.values.items())
    if entry.sensor_name is None or isinstance(entry.value, msgspec.UnsetType):
        raise NotReplayable("the payload has a reading without sensor_name and value")
    return [(entry.sensor_name, entry.value)]


def _time_of(entry: _Entry, letter: DeadLetter) -> int:
    if entry.timestamp is None:
        return letter.received_at
    if letter.role == "persistence":
        # Its letters are written from decoded readings, whose times are microseconds whatever their size.
        if isinstance(entry.timestamp, int):
            return entry.timestamp
        raise NotReplayable("the payload's timestamp is no whole number of microseconds")
    try:
        return parse_timestamp(entry.timestamp)
    except (ValueError, OverflowError) as error:
        raise NotReplayable(f"the payload's timestamp {error}") from error


def _fault(reading: Reading, now: int) -> str | None:
    """Why a reading would end in the dead letters again; None when it would not."""
    if fault := identifier_fault(reading.device_id):
        return f"the device {fault}"
    if fault := sensor_fault(reading.sensor):
        return f"the sensor {fault}"
    if isinstance(reading.value, str):
        if len(reading.value.encode("utf-8", "surrogatepass")) > MAX_TEXT_BYTES:
            return f"the value has more than {MAX_TEXT_BYTES} bytes"
        if "\x00" in reading.value:
            return "the value contains the character NUL"
    elif not math.isfinite(reading.value):
        return "the value is no finite number"
    if reading.at < 0:
        return "the time is before 1970"
    try:
        check_not_ahead(reading.at, now)
    except ValueError as error:
        return f"the time {error}"
    return None

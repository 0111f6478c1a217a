"""The readings of an export: looked at as the door would, and stored behind it."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from itertools import islice
from typing import Final

import msgspec

from iotplatform.app.transfer.archive import Archive, Member
from iotplatform.app.transfer.places import Target
from iotplatform.domain.payloads.admission import known_identifier_fault, known_sensor_fault, value_fault
from iotplatform.domain.reading import Reading, Value
from iotplatform.domain.telemetry import Entry, UnstorableData
from iotplatform.domain.timestamps import check_not_ahead
from iotplatform.errors import Rejected
from iotplatform.runtime.clock import now_us

STORED_AT_ONCE: Final = 5_000
# Before everything that the organization's stream will hold: what comes through the door for the same time stays.
POSITION: Final = 0

_decode = msgspec.json.Decoder(Reading, strict=True).decode


def check_readings(archive: Archive, member: Member) -> int:
    """How many there are.

    Raises:
        ConfigError: one of them could not have come in.
    """
    return sum(1 for _ in readings_of(archive, member))


def readings_of(archive: Archive, member: Member) -> Iterator[Reading]:
    now = now_us()
    for number, line in enumerate(archive.lines(member), start=1):
        try:
            reading = _decode(line)
            fault = _fault(reading, now)
        except (msgspec.DecodeError, UnicodeError, RecursionError, ValueError) as error:
            fault = str(error)
        else:
            if fault is None:
                yield reading
                continue
        raise archive.wrong(f"{member.path}: line {number}: {fault}")


def _fault(reading: Reading, now: int) -> str | None:
    if fault := known_identifier_fault(reading.device_id):
        return f"the device {fault}"
    if fault := known_sensor_fault(reading.sensor):
        return f"the sensor {fault}"
    if fault := value_fault(reading.value):
        return f"the value {fault}"
    if reading.at < 0:
        return "the time must not be before 1970"
    check_not_ahead(reading.at, now)
    return None


async def store_part(target: Target, epoch: int, archive: Archive, member: Member) -> None:
    """Storing it again changes nothing."""
    readings = readings_of(archive, member)
    while some := await asyncio.to_thread(_next, readings):
        await _store(target, epoch, some)


def _next(readings: Iterator[Reading]) -> list[Entry]:
    return [(reading, POSITION) for reading in islice(readings, STORED_AT_ONCE)]


async def _store(target: Target, epoch: int, entries: list[Entry]) -> None:
    newest: dict[tuple[str, str], tuple[int, int, Value]] = {}
    for reading, position in entries:
        key = (reading.device_id, reading.sensor)
        if key not in newest or newest[key][0] < reading.at:
            newest[key] = (reading.at, position, reading.value)
    try:
        if target.telemetry.sink is None:
            await target.readings.put(epoch, entries)
        else:
            await target.telemetry.sink.write([(epoch, entries)])
            await target.readings.name(epoch, newest.keys())
    except UnstorableData as error:
        raise Rejected("invalid", f"the store does not take some of the readings: {error}") from error
    await target.latest.keep({epoch: newest})

"""Rules: what makes readings of a series an alarm."""

from __future__ import annotations

import functools
from collections.abc import Collection, Iterator
from hashlib import blake2b
from typing import Literal

import msgspec

from iotplatform.domain.conditions import Condition, MOfN, NoData, Threshold
from iotplatform.domain.conditions.comparison import Count, Fault, Operator, Seconds, Simple, finite_faults
from iotplatform.domain.globs import glob_pattern
from iotplatform.domain.identifiers import identifier_fault, sensor_fault

__all__ = ["Condition", "Devices", "Fault", "Operator", "Positive", "Rule", "Severity", "Simple", "Threshold"]

Severity = Literal["critical", "major", "minor", "warning", "info"]
Late = Literal["evaluate", "ignore"]
Positive = Count

_GOES_BY_ARRIVAL = "does not go with 'no_data', which goes by the time of arrival"


class Devices(msgspec.Struct, frozen=True, omit_defaults=True, forbid_unknown_fields=True):
    """The devices with one of these `ids`, or those that have all of these `tags`."""

    ids: tuple[str, ...] = ()
    tags: tuple[str, ...] = ()

    def include(self, device_id: str, tags: Collection[str]) -> bool:
        return device_id in self.ids or (bool(self.tags) and set(self.tags) <= set(tags))


class Rule(msgspec.Struct, frozen=True):
    """`sensor` is a glob; `raise_after` breaches in a row raise, `clear_after` good readings in a row clear.

    A `raise_after` that is left out is the condition's own.
    """

    id: str
    organization_id: str
    name: str
    sensor: str
    condition: Condition
    severity: Severity = "major"
    enabled: bool = True
    raise_after: Positive = 0
    clear_after: Positive = 1
    devices: Devices | None = None
    for_s: Seconds | None = None
    max_gap_s: Seconds | None = None
    late: Late = "evaluate"
    latched: bool = False
    reminder_s: Seconds | None = None

    def __post_init__(self) -> None:
        if not self.raise_after:
            msgspec.structs.force_setattr(self, "raise_after", self.condition.default_raise_after)

    def matches(self, sensor: str) -> bool:
        """Whether it looks at sensors of this name, of the devices that it looks at."""
        return self.enabled and glob_pattern(self.sensor).match(sensor) is not None

    def concerns(self, device_id: str, tags: Collection[str]) -> bool:
        """Whether it looks at this device."""
        return self.devices is None or self.devices.include(device_id, tags)

    @property
    def mark(self) -> int:
        """Another one when condition, sensor or devices have changed: then nothing that was counted counts on."""
        return _mark(self.condition, self.sensor, self.devices)

    @property
    def summary(self) -> str:
        """The condition in a few words, for people."""
        match self.condition:
            case NoData():
                return str(self.condition)
            case MOfN(m=m, n=n):
                return f"{self.condition}, {m} of {n}"
            case _:
                text = f"{self.condition}, {self.raise_after} in a row"
                return text if self.for_s is None else f"{text}, for {self.for_s:g} s"


def rule_faults(rule: Rule) -> list[Fault]:
    """What a type can't say: for each fault the field, as in `condition.clear_value`, and what to do about it."""
    return [
        *_name_faults(rule),
        *rule.condition.faults(),
        *_combination_faults(rule),
    ]


def _name_faults(rule: Rule) -> Iterator[Fault]:
    if fault := identifier_fault(rule.id):
        yield "id", fault
    if fault := sensor_fault(rule.sensor):
        yield "sensor", fault
    if rule.devices is None:
        return
    if bool(rule.devices.ids) == bool(rule.devices.tags):
        yield "devices", "must name either 'ids' or 'tags', at least one; leave it out for all devices"
    for number, device_id in enumerate(rule.devices.ids):
        if fault := identifier_fault(device_id):
            yield f"devices.ids[{number}]", fault
    for number, tag in enumerate(rule.devices.tags):
        if fault := sensor_fault(tag):
            yield f"devices.tags[{number}]", fault


def _combination_faults(rule: Rule) -> Iterator[Fault]:
    for name, seconds in (
        ("for_s", rule.for_s),
        ("max_gap_s", rule.max_gap_s),
        ("reminder_s", rule.reminder_s),
    ):
        if seconds is not None:
            yield from finite_faults(name, seconds)
    if isinstance(rule.condition, MOfN | NoData):
        kind = "m_of_n" if isinstance(rule.condition, MOfN) else "no_data"
        if rule.raise_after != 1:
            yield "raise_after", f"must be left out, or 1, with {kind!r}"
        if rule.for_s is not None:
            yield "for_s", f"does not go with {kind!r}, which has no breaches in a row"
    elif rule.for_s is not None and rule.max_gap_s is None:
        yield "for_s", "needs 'max_gap_s', so that a silent device never fires by duration"
    if isinstance(rule.condition, NoData):
        if rule.max_gap_s is not None:
            yield "max_gap_s", _GOES_BY_ARRIVAL
        if rule.late != "evaluate":
            yield "late", _GOES_BY_ARRIVAL


@functools.lru_cache(maxsize=65_536)
def _mark(condition: Condition, sensor: str, devices: Devices | None) -> int:
    chosen = None if devices is None else (sorted(devices.ids), sorted(devices.tags))
    digest = blake2b(msgspec.json.encode((condition, sensor, chosen)), digest_size=4, person=b"iot-rule").digest()
    # 0 says that nobody knows.
    return int.from_bytes(digest, "big") or 1

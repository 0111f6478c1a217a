"""What evaluating blocks amounts to: what a commit writes, and what is told of it."""

from __future__ import annotations

import msgspec

from iotplatform.domain.alarm import Transition


class Breach(msgspec.Struct, frozen=True):
    """A breach that counted, for the log."""

    device_id: str
    sensor: str
    rule_id: str
    value: float
    streak: int


class Outcome(msgspec.Struct):
    """`states` holds the packed state of each series that changed, empty for one that is back at the beginning."""

    states: dict[bytes, bytes] = msgspec.field(default_factory=dict)
    transitions: list[Transition] = msgspec.field(default_factory=list)
    breaches: list[Breach] = msgspec.field(default_factory=list)

"""Alarms: one episode of one rule on one series, and the transitions that tell of it."""

from __future__ import annotations

import uuid
from hashlib import blake2b
from typing import Final, Literal

import msgspec

from iotplatform.domain.rule import Severity

Evidence = tuple[int, float]
# Why an alarm was cleared other than by good readings; the last: the device's tags, and with them the rules for it.
ClearReason = Literal["manual", "rule_disabled", "rule_deleted", "rule_changed", "device_deleted", "device_changed"]

_VERSION_AND_VARIANT: Final = (0xF << 76) | (0x3 << 62)
_VERSION_8: Final = (0x8 << 76) | (0x2 << 62)


class RuleNames(msgspec.Struct, frozen=True):
    """What an alarm says of its rule, which may be gone by the time it is cleared."""

    rule_id: str
    rule_name: str
    severity: Severity
    condition: str


class AlarmRaised(msgspec.Struct, frozen=True, tag="raised", tag_field="transition"):
    """The reading at `raised_at` was the last breach that was needed; `readings` are those that raised it."""

    alarm_id: str
    organization_id: str
    epoch: int
    rule_id: str
    rule_name: str
    severity: Severity
    condition: str
    device_id: str
    sensor: str
    raised_at: int
    first_breach_at: int
    trigger_value: float
    readings: list[Evidence]
    position: int
    arrived_at: int
    latched: bool = False
    reminder_s: float | None = None
    trace: str | None = None


class AlarmCleared(msgspec.Struct, frozen=True, tag="cleared", tag_field="transition"):
    """The reading at `cleared_at` was the last good one that was needed.

    With a `reason` it was no reading: there is no `value`, and `cleared_at` is the server's time.
    """

    alarm_id: str
    organization_id: str
    epoch: int
    rule_id: str
    rule_name: str
    severity: Severity
    condition: str
    device_id: str
    sensor: str
    cleared_at: int
    value: float | None
    position: int
    arrived_at: int
    reason: ClearReason | None = None
    by: str | None = None
    trace: str | None = None


Transition = AlarmRaised | AlarmCleared

_encoder = msgspec.json.Encoder()
_decoder: msgspec.json.Decoder[Transition] = msgspec.json.Decoder(AlarmRaised | AlarmCleared)


class UnreadableTransition(ValueError):
    """The bytes are no transition that this version can read."""


def encode_transition(transition: Transition) -> bytes:
    return _encoder.encode(transition)


def decode_transition(data: bytes) -> Transition:
    """The transition in a message of NOTIFICATIONS.

    Raises:
        UnreadableTransition: when there is none.
    """
    try:
        return _decoder.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise UnreadableTransition(f"not a transition: {error}") from error


def transition_name(transition: Transition) -> str:
    return "raised" if isinstance(transition, AlarmRaised) else "cleared"


def transition_id(transition: Transition) -> str:
    """The id under which it is published, whoever publishes it and how often."""
    return f"{transition.alarm_id}.{transition_name(transition)}"


def alarm_id(
    organization_id: str, epoch: int, rule_id: str, device_id: str, sensor: str, position: int, index: int
) -> str:
    """The id of the alarm raised by reading `index` of the block at `position`.

    It follows from where the reading stands in the stream, so publishing the transition again changes nothing.
    """
    parts = "\x00".join((organization_id, str(epoch), rule_id, device_id, sensor, str(position), str(index)))
    digest = int.from_bytes(blake2b(parts.encode(), digest_size=16, person=b"iot-alarm").digest(), "big")
    # Version 8 of RFC 9562, a UUID of one's own making; the standard library can't set it before Python 3.14.
    return str(uuid.UUID(int=(digest & ~_VERSION_AND_VARIANT) | _VERSION_8))

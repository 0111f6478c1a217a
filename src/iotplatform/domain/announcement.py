"""What people are told about an alarm: the transitions of analysis, and what people and the clock add to them."""

from __future__ import annotations

from typing import Final

import msgspec

from iotplatform.domain.alarm import AlarmCleared, AlarmRaised
from iotplatform.domain.rule import Severity


class AlarmAcknowledged(msgspec.Struct, frozen=True, tag="acknowledged", tag_field="transition"):
    """Somebody has seen it. `acknowledged_at` is the server's time."""

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
    acknowledged_at: int
    acknowledged_by: str
    comment: str | None = None


class AlarmReminder(msgspec.Struct, frozen=True, tag="reminder", tag_field="transition"):
    """It is still active and nobody has acknowledged it; `number` counts from 1, `reminded_at` is the server's time."""

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
    trigger_value: float
    number: int
    reminded_at: int


Announcement = AlarmRaised | AlarmCleared | AlarmAcknowledged | AlarmReminder

_encoder = msgspec.json.Encoder()
_decoder: msgspec.json.Decoder[Announcement] = msgspec.json.Decoder(Announcement)
_NAMES: Final[dict[type[Announcement], str]] = {
    AlarmRaised: "raised",
    AlarmCleared: "cleared",
    AlarmAcknowledged: "acknowledged",
    AlarmReminder: "reminder",
}


class UnreadableAnnouncement(ValueError):
    """The bytes are no announcement that this version can read."""


def encode_announcement(announcement: Announcement) -> bytes:
    return _encoder.encode(announcement)


def decode_announcement(data: bytes) -> Announcement:
    """What a delivery is about.

    Raises:
        UnreadableAnnouncement: nothing that is known.
    """
    try:
        return _decoder.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise UnreadableAnnouncement(f"not an announcement: {error}") from error


def announcement_name(announcement: Announcement) -> str:
    return _NAMES[type(announcement)]


def announcement_number(announcement: Announcement) -> int:
    """Only reminders are many."""
    return announcement.number if isinstance(announcement, AlarmReminder) else 0

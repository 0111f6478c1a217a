"""What a notification says. The names in it come from devices: none of them can start a line of its own."""

from __future__ import annotations

from typing import Final

from iotplatform.adapters.mail.message import one_line
from iotplatform.adapters.postgres.routing import delivery_id
from iotplatform.domain.alarm import AlarmCleared, AlarmRaised, ClearReason
from iotplatform.domain.announcement import (
    AlarmAcknowledged,
    AlarmReminder,
    Announcement,
    announcement_name,
    announcement_number,
)
from iotplatform.domain.notification import Notification
from iotplatform.domain.timestamps import format_timestamp

MAX_SUBJECT: Final = 200
MAX_NAME: Final = 600
_REASONS: Final[dict[ClearReason, str]] = {
    "manual": "hand, of {by}",
    "rule_disabled": "disabling the rule",
    "rule_deleted": "deleting the rule",
    "rule_changed": "changing the rule's condition, sensor or devices",
    "device_deleted": "deleting the device",
    "device_changed": "changing the device's tags",
}


def compose(announcement: Announcement, channel_id: str, to: tuple[str, ...], created_at: int) -> Notification:
    """What tells of it. The same every time, so that one sent twice can be seen to be the same."""
    name, number = announcement_name(announcement), announcement_number(announcement)
    return Notification(
        organization_id=announcement.organization_id,
        channel_id=channel_id,
        alarm_id=announcement.alarm_id,
        transition=name,
        to=to,
        subject=subject_of(announcement),
        body=body_of(announcement),
        message_id=_message_id(announcement.alarm_id, name, channel_id, number),
        created_at=created_at,
        delivery_id=str(delivery_id(announcement.alarm_id, name, channel_id, number)),
        answers=None if name == "raised" else _message_id(announcement.alarm_id, "raised", channel_id),
    )


def subject_of(announcement: Announcement) -> str:
    return _cut(f"{_headline(announcement)} ({announcement.severity}, {announcement.organization_id})", MAX_SUBJECT)


def body_of(announcement: Announcement) -> str:
    facts = [
        ("Organization", announcement.organization_id),
        ("Device", announcement.device_id),
        ("Sensor", announcement.sensor),
        ("Rule", f"{announcement.rule_name} ({announcement.rule_id})"),
        ("Condition", announcement.condition),
        ("Severity", announcement.severity),
        *_facts(announcement),
        ("Alarm", announcement.alarm_id),
    ]
    lines = [f"{_headline(announcement)}.", "", *(f"{name + ':':<14}{_cut(value, MAX_NAME)}" for name, value in facts)]
    if isinstance(announcement, AlarmRaised):
        lines += ["", "The readings that raised it:"]
        lines += [f"  {format_timestamp(at)}  {value:.15g}" for at, value in announcement.readings]
    return "\n".join(lines) + "\n"


def _facts(announcement: Announcement) -> list[tuple[str, str]]:
    match announcement:
        case AlarmRaised():
            return [
                ("Raised at", format_timestamp(announcement.raised_at)),
                ("First breach", format_timestamp(announcement.first_breach_at)),
                ("Value", f"{announcement.trigger_value:.15g}"),
            ]
        case AlarmCleared(value=value, reason=reason):
            facts = [("Cleared at", format_timestamp(announcement.cleared_at))]
            if value is not None:
                facts.append(("Value", f"{value:.15g}"))
            if reason is not None:
                facts.append(("Cleared by", _REASONS[reason].format(by=announcement.by)))
            return facts
        case AlarmAcknowledged(comment=comment):
            facts = [
                ("Raised at", format_timestamp(announcement.raised_at)),
                ("By", announcement.acknowledged_by),
                ("At", format_timestamp(announcement.acknowledged_at)),
            ]
            return facts if comment is None else [*facts, ("Comment", comment)]
        case AlarmReminder():
            return [
                ("Raised at", format_timestamp(announcement.raised_at)),
                ("Value then", f"{announcement.trigger_value:.15g}"),
                ("Reminder", str(announcement.number)),
            ]


def _headline(announcement: Announcement) -> str:
    device, sensor, condition = (
        _cut(text, MAX_SUBJECT // 3) for text in (announcement.device_id, announcement.sensor, announcement.condition)
    )
    match announcement:
        case AlarmRaised():
            return f"Alarm raised: {sensor} of {device} is {condition}"
        case AlarmCleared():
            return f"Alarm cleared: {sensor} of {device} is no longer {condition}"
        case AlarmAcknowledged():
            return f"Alarm acknowledged: {sensor} of {device} was {condition}"
        case AlarmReminder():
            return f"Alarm still active: {sensor} of {device} was {condition}"


def _message_id(alarm_id: str, transition: str, channel_id: str, number: int = 0) -> str:
    return f"<{delivery_id(alarm_id, transition, channel_id, number)}@iotplatform>"


def _cut(text: str, most: int) -> str:
    line = one_line(text)
    return line if len(line) <= most else line[: most - 1] + "…"

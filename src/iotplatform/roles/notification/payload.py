"""What a webhook is sent: the transition as JSON, the same bytes at every attempt."""

from __future__ import annotations

from typing import Any

import msgspec

from iotplatform.domain.alarm import AlarmRaised
from iotplatform.domain.announcement import Announcement
from iotplatform.domain.notification import Notification
from iotplatform.domain.timestamps import format_timestamp

# How the parts of a message travel inside the platform is nobody else's affair.
_INNER = frozenset({"transition", "alarm_id", "epoch", "organization_id", "arrived_at", "position", "sequence"})


def payload_of(announcement: Announcement, notification: Notification) -> bytes:
    fields = {name: value for name, value in msgspec.structs.asdict(announcement).items() if name not in _INNER}
    alarm: dict[str, Any] = {"id": announcement.alarm_id}
    for name, value in fields.items():
        alarm[name] = format_timestamp(value) if name.endswith("_at") and isinstance(value, int) else value
    if isinstance(announcement, AlarmRaised):
        alarm["readings"] = [{"timestamp": format_timestamp(at), "value": value} for at, value in announcement.readings]
    return msgspec.json.encode(
        {
            "delivery_id": notification.delivery_id,
            "organization_id": notification.organization_id,
            "channel_id": notification.channel_id,
            "transition": notification.transition,
            "subject": notification.subject,
            "alarm": alarm,
        }
    )

"""What a notification says. The names in it come from devices: none of them can start a line of its own."""

from __future__ import annotations

from typing import Final

from iotplatform.adapters.mail.message import Mail, one_line
from iotplatform.adapters.postgres.outgoing import delivery_id
from iotplatform.domain.alarm import AlarmRaised, ClearReason, Transition, transition_name
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


def compose(transition: Transition, channel_id: str, to: tuple[str, ...], created_at: int) -> Mail:
    """The mail that tells of a transition. The same every time, so that one sent twice can be seen to be the same."""
    name = transition_name(transition)
    return Mail(
        organization_id=transition.organization_id,
        channel_id=channel_id,
        alarm_id=transition.alarm_id,
        transition=name,
        to=to,
        subject=subject_of(transition),
        body=body_of(transition),
        message_id=_message_id(transition.alarm_id, name, channel_id),
        created_at=created_at,
        answers=None if name == "raised" else _message_id(transition.alarm_id, "raised", channel_id),
    )


def subject_of(transition: Transition) -> str:
    return _cut(f"{_headline(transition)} ({transition.severity}, {transition.organization_id})", MAX_SUBJECT)


def body_of(transition: Transition) -> str:
    facts = [
        ("Organization", transition.organization_id),
        ("Device", transition.device_id),
        ("Sensor", transition.sensor),
        ("Rule", f"{transition.rule_name} ({transition.rule_id})"),
        ("Condition", transition.condition),
        ("Severity", transition.severity),
    ]
    if isinstance(transition, AlarmRaised):
        facts += [
            ("Raised at", format_timestamp(transition.raised_at)),
            ("First breach", format_timestamp(transition.first_breach_at)),
            ("Value", f"{transition.trigger_value:.15g}"),
        ]
    else:
        facts.append(("Cleared at", format_timestamp(transition.cleared_at)))
        if transition.value is not None:
            facts.append(("Value", f"{transition.value:.15g}"))
        if transition.reason is not None:
            facts.append(("Cleared by", _REASONS[transition.reason].format(by=transition.by)))
    facts.append(("Alarm", transition.alarm_id))
    lines = [f"{_headline(transition)}.", "", *(f"{label + ':':<14}{_cut(value, MAX_NAME)}" for label, value in facts)]
    if isinstance(transition, AlarmRaised):
        lines += ["", "The readings that raised it:"]
        lines += [f"  {format_timestamp(at)}  {value:.15g}" for at, value in transition.readings]
    return "\n".join(lines) + "\n"


def _headline(transition: Transition) -> str:
    device, sensor, condition = (
        _cut(text, MAX_SUBJECT // 3) for text in (transition.device_id, transition.sensor, transition.condition)
    )
    if isinstance(transition, AlarmRaised):
        return f"Alarm raised: {sensor} of {device} is {condition}"
    return f"Alarm cleared: {sensor} of {device} is no longer {condition}"


def _message_id(alarm_id: str, transition: str, channel_id: str) -> str:
    return f"<{delivery_id(alarm_id, transition, channel_id)}@iotplatform>"


def _cut(text: str, most: int) -> str:
    line = one_line(text)
    return line if len(line) <= most else line[: most - 1] + "…"

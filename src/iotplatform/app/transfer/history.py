"""Lines of what has happened: alarms with their timelines, deliveries, commands, the audit."""

from __future__ import annotations

import uuid
from typing import Annotated, Any, Literal

import msgspec

from iotplatform.app.transfer.lines import Destination, Line, Moment, Natural, Prose, Sensor, Text, check_plain
from iotplatform.domain.alarm import Evidence
from iotplatform.domain.rule import Severity
from iotplatform.domain.timestamps import to_datetime
from iotplatform.errors import Rejected
from iotplatform.roles.management.commands import CommandName
from iotplatform.roles.management.fields import Identifier, Name


class AlarmLine(Line, frozen=True, kw_only=True):
    id: uuid.UUID
    rule_id: Identifier
    rule_name: Name
    device_id: Identifier
    sensor: Sensor
    severity: Severity
    state: Literal["active", "cleared"]
    condition: Text
    raised_at: Moment
    first_breach_at: Moment
    cleared_at: Moment | None
    clear_reason: Text | None
    acknowledged_at: Moment | None
    acknowledged_by: Text | None
    assigned_to: Text | None
    trigger_value: float
    readings: Annotated[tuple[Evidence, ...], msgspec.Meta(max_length=10_000)]
    created_at: Moment
    latched: bool
    snoozed_until: Moment | None
    reminders: Natural

    def check(self) -> None:
        if (self.state == "cleared") != (self.cleared_at is not None):
            raise Rejected("invalid", "an alarm has a time at which it was cleared when it was, and only then")
        for at, _ in self.readings:
            check_time(at)

    def arranged(self, to: Destination) -> AlarmLine:
        return msgspec.structs.replace(self, id=to.renamed(self.id))


class AlarmEventLine(Line, frozen=True, kw_only=True):
    alarm_id: uuid.UUID
    kind: Annotated[str, msgspec.Meta(pattern=r"^[a-z_]{1,40}\Z")]
    at: Moment
    who: Text | None
    detail: dict[str, Any]

    def check(self) -> None:
        check_plain("detail", self.detail)

    def arranged(self, to: Destination) -> AlarmEventLine:
        return msgspec.structs.replace(self, alarm_id=to.renamed(self.alarm_id))


class Attempt(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    at: Text
    outcome: Text
    detail: Prose


class DeliveryLine(Line, frozen=True, kw_only=True):
    """One that was still to be sent is sent where it was made, if at all."""

    id: uuid.UUID
    alarm_id: uuid.UUID
    channel_id: Identifier
    transition: Literal["raised", "cleared", "acknowledged", "reminder"]
    number: Natural
    state: Literal["pending", "sent", "failed", "suppressed"]
    attempts: Annotated[list[Attempt], msgspec.Meta(max_length=10_000)]
    created_at: Moment

    def arranged(self, to: Destination) -> DeliveryLine:
        kept = self.state if self.state != "pending" else "suppressed"
        return msgspec.structs.replace(self, id=to.renamed(self.id), alarm_id=to.renamed(self.alarm_id), state=kept)


class CommandLine(Line, frozen=True, kw_only=True):
    """One that the device had not got yet waits where it was given, not here too."""

    id: uuid.UUID
    device_id: Identifier
    name: CommandName
    payload: Any
    state: Literal["queued", "sent", "acknowledged", "answered", "failed", "expired"]
    created_at: Moment
    created_by: Text
    expires_at: Moment
    sent_at: Moment | None
    acknowledged_at: Moment | None
    ended_at: Moment | None
    times_sent: Natural
    answer: Any

    def check(self) -> None:
        check_plain("payload", self.payload)
        check_plain("answer", self.answer)

    def arranged(self, to: Destination) -> CommandLine:
        waits = self.state in {"queued", "sent"}
        return msgspec.structs.replace(
            self,
            id=to.renamed(self.id),
            state="expired" if waits else self.state,
            ended_at=self.expires_at if waits else self.ended_at,
        )


class AuditLine(Line, frozen=True, kw_only=True):
    at: Moment
    actor: Text
    actor_kind: Text
    address: Text | None
    request: uuid.UUID | None
    action: Text
    kind: Text
    subject: Text
    old: dict[str, Any] | None
    new: dict[str, Any] | None

    def check(self) -> None:
        check_plain("old", self.old)
        check_plain("new", self.new)


def check_time(at_us: int) -> None:
    try:
        to_datetime(at_us)
    except (OverflowError, ValueError) as error:
        raise Rejected("invalid", f"{at_us} is no time in microseconds") from error

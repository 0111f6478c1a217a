"""The alarms that rules raise, and what people do about them."""

from __future__ import annotations

import datetime as dt
import uuid
from typing import Any

from sqlalchemy import BigInteger, CheckConstraint, Identity, Index, text
from sqlalchemy.orm import Mapped, mapped_column

from iotplatform.adapters.postgres.models.schema import NOW, ZERO, Model, epoch_column


class AlarmRow(Model):
    __tablename__ = "alarms"
    __table_args__ = (
        CheckConstraint("state IN ('active', 'cleared')", name="alarms_state_check"),
        Index(
            "alarms_one_active",
            "epoch",
            "rule_id",
            "device_id",
            "sensor",
            unique=True,
            postgresql_where=text("state = 'active'"),
        ),
        Index("alarms_newest", "epoch", text("raised_at DESC"), "id"),
        Index("alarms_reminders", "remind_at", postgresql_where=text("remind_at IS NOT NULL")),
    )

    id: Mapped[uuid.UUID] = mapped_column(primary_key=True)
    epoch: Mapped[int] = epoch_column("alarms")
    rule_id: Mapped[str]
    rule_name: Mapped[str]
    device_id: Mapped[str]
    sensor: Mapped[str]
    severity: Mapped[str]
    state: Mapped[str]
    condition: Mapped[str]
    raised_at: Mapped[dt.datetime]
    first_breach_at: Mapped[dt.datetime]
    cleared_at: Mapped[dt.datetime | None]
    clear_reason: Mapped[str | None]
    acknowledged_at: Mapped[dt.datetime | None]
    acknowledged_by: Mapped[str | None]
    assigned_to: Mapped[str | None]
    trigger_value: Mapped[float]
    readings: Mapped[list[Any]]
    position: Mapped[int] = mapped_column(BigInteger)
    cleared_position: Mapped[int | None] = mapped_column(BigInteger)
    created_at: Mapped[dt.datetime] = mapped_column(server_default=NOW)
    latched: Mapped[bool] = mapped_column(server_default=text("false"))
    snoozed_until: Mapped[dt.datetime | None]
    # Kept by triggers, and by whoever acknowledges, snoozes or reminds.
    remind_at: Mapped[dt.datetime | None]
    reminders: Mapped[int] = mapped_column(server_default=ZERO)


class AlarmEventRow(Model):
    """One entry of an alarm's timeline. Without `who` it was the platform; those to `announce` become deliveries."""

    __tablename__ = "alarm_events"
    __table_args__ = (
        Index("alarm_events_alarm", "alarm_id", "id"),
        Index("alarm_events_epoch", "epoch"),
        Index("alarm_events_announce", "id", postgresql_where=text("announce")),
    )

    id: Mapped[int] = mapped_column(BigInteger, Identity(always=True), primary_key=True)
    epoch: Mapped[int] = epoch_column("alarm_events")
    alarm_id: Mapped[uuid.UUID]
    kind: Mapped[str]
    at: Mapped[dt.datetime] = mapped_column(server_default=NOW)
    who: Mapped[str | None]
    detail: Mapped[dict[str, Any]] = mapped_column(server_default=text("'{}'"))
    announce: Mapped[bool] = mapped_column(server_default=text("false"))

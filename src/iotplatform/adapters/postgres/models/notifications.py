"""Channels, what is delivered over them, and when nothing is to be."""

from __future__ import annotations

import datetime as dt
import uuid
from typing import Any

from sqlalchemy import CheckConstraint, Index, UniqueConstraint, text
from sqlalchemy.orm import Mapped, mapped_column

from iotplatform.adapters.postgres.models.schema import FIRST_VERSION, NOW, ZERO, Model, epoch_column


class ChannelRow(Model):
    __tablename__ = "channels"

    epoch: Mapped[int] = epoch_column("channels", primary_key=True)
    id: Mapped[str] = mapped_column(primary_key=True)
    name: Mapped[str]
    type: Mapped[str]
    enabled: Mapped[bool] = mapped_column(server_default=text("true"))
    severities: Mapped[list[str]]
    config: Mapped[dict[str, Any]] = mapped_column(server_default=text("'{}'"))
    created_at: Mapped[dt.datetime] = mapped_column(server_default=NOW)
    updated_at: Mapped[dt.datetime] = mapped_column(server_default=NOW)
    version: Mapped[int] = mapped_column(server_default=FIRST_VERSION)
    # What a webhook keeps secret, sealed (adapters/secrets).
    secrets: Mapped[str | None]


class MaintenanceWindowRow(Model):
    """Without devices (by id or tag) it is for all of them, and without rules for all rules."""

    __tablename__ = "maintenance_windows"

    epoch: Mapped[int] = epoch_column("maintenance_windows", primary_key=True)
    id: Mapped[str] = mapped_column(primary_key=True)
    name: Mapped[str]
    starts_at: Mapped[dt.datetime]
    ends_at: Mapped[dt.datetime]
    device_ids: Mapped[list[str]] = mapped_column(server_default=text("'{}'"))
    device_tags: Mapped[list[str]] = mapped_column(server_default=text("'{}'"))
    rule_ids: Mapped[list[str]] = mapped_column(server_default=text("'{}'"))
    created_at: Mapped[dt.datetime] = mapped_column(server_default=NOW)
    created_by: Mapped[str]
    version: Mapped[int] = mapped_column(server_default=FIRST_VERSION)


class DeliveryRow(Model):
    __tablename__ = "deliveries"
    __table_args__ = (
        CheckConstraint("state IN ('pending', 'sent', 'failed', 'suppressed')", name="deliveries_state_check"),
        UniqueConstraint("alarm_id", "transition", "channel_id", "number", name="deliveries_what_key"),
        Index("deliveries_due", "next_attempt_at", postgresql_where=text("state = 'pending'")),
        Index("deliveries_newest", "epoch", text("created_at DESC"), "id"),
    )

    id: Mapped[uuid.UUID] = mapped_column(primary_key=True)
    epoch: Mapped[int] = epoch_column("deliveries")
    alarm_id: Mapped[uuid.UUID]
    channel_id: Mapped[str]
    transition: Mapped[str]
    state: Mapped[str]
    event: Mapped[dict[str, Any]]
    attempts: Mapped[list[Any]] = mapped_column(server_default=text("'[]'"))
    next_attempt_at: Mapped[dt.datetime | None]
    created_at: Mapped[dt.datetime] = mapped_column(server_default=NOW)
    # Reminders of an alarm have one; everything else happens once.
    number: Mapped[int] = mapped_column(server_default=ZERO)

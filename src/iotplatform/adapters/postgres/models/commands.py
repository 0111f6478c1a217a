"""Commands to devices, and which devices are there."""

from __future__ import annotations

import datetime as dt
import uuid
from typing import Any

from sqlalchemy import BigInteger, CheckConstraint, ForeignKeyConstraint, Index, text
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import Mapped, mapped_column

from iotplatform.adapters.postgres.models.schema import NOW, ZERO, Model, epoch_column


class DevicePresenceRow(Model):
    """Also of devices that are not registered; `disconnected_at` is when the last connection ended."""

    __tablename__ = "device_presence"

    epoch: Mapped[int] = epoch_column("device_presence", primary_key=True)
    device_id: Mapped[str] = mapped_column(primary_key=True)
    connected: Mapped[bool] = mapped_column(server_default=text("false"))
    disconnected_at: Mapped[dt.datetime | None]
    last_seen_at: Mapped[dt.datetime]


class CommandRow(Model):
    __tablename__ = "commands"
    __table_args__ = (
        CheckConstraint(
            "state IN ('queued', 'sent', 'acknowledged', 'answered', 'failed', 'expired')", name="commands_state_check"
        ),
        ForeignKeyConstraint(
            ["epoch", "device_id"], ["devices.epoch", "devices.id"], ondelete="CASCADE", name="commands_device_fkey"
        ),
        Index("commands_newest", "epoch", "device_id", text("created_at DESC"), "id"),
        Index("commands_due", "next_send_at", postgresql_where=text("state IN ('queued', 'sent')")),
        Index(
            "commands_key",
            "epoch",
            "device_id",
            "idempotency_key",
            unique=True,
            postgresql_where=text("idempotency_key IS NOT NULL"),
        ),
    )

    id: Mapped[uuid.UUID] = mapped_column(primary_key=True)
    epoch: Mapped[int] = mapped_column(BigInteger)
    device_id: Mapped[str]
    name: Mapped[str]
    payload: Mapped[Any] = mapped_column(JSONB)
    state: Mapped[str] = mapped_column(server_default=text("'queued'"))
    created_at: Mapped[dt.datetime] = mapped_column(server_default=NOW)
    created_by: Mapped[str]
    expires_at: Mapped[dt.datetime]
    sent_at: Mapped[dt.datetime | None]
    acknowledged_at: Mapped[dt.datetime | None]
    # Answered, failed or expired.
    ended_at: Mapped[dt.datetime | None]
    times_sent: Mapped[int] = mapped_column(server_default=ZERO)
    next_send_at: Mapped[dt.datetime] = mapped_column(server_default=NOW)
    answer: Mapped[Any | None] = mapped_column(JSONB(none_as_null=True))
    idempotency_key: Mapped[str | None]
    # Of name and payload: the same key for another command is a mistake.
    fingerprint: Mapped[str]

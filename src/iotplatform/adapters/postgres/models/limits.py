"""Limits, where they differ from the settings."""

from __future__ import annotations

from typing import Any

from sqlalchemy import BigInteger, ForeignKeyConstraint
from sqlalchemy.orm import Mapped, mapped_column

from iotplatform.adapters.postgres.models.schema import FIRST_VERSION, Model, epoch_column


class LimitsRow(Model):
    __tablename__ = "limits"

    epoch: Mapped[int] = epoch_column("limits", primary_key=True)
    definition: Mapped[dict[str, Any]]
    version: Mapped[int] = mapped_column(server_default=FIRST_VERSION)


class DeviceLimitsRow(Model):
    __tablename__ = "device_limits"
    __table_args__ = (
        ForeignKeyConstraint(
            ["epoch", "device_id"],
            ["devices.epoch", "devices.id"],
            ondelete="CASCADE",
            name="device_limits_device_fkey",
        ),
    )

    epoch: Mapped[int] = mapped_column(BigInteger, primary_key=True, autoincrement=False)
    device_id: Mapped[str] = mapped_column(primary_key=True)
    definition: Mapped[dict[str, Any]]
    version: Mapped[int] = mapped_column(server_default=FIRST_VERSION)


class QuotaDefaultRow(Model):
    """What the settings of management say, for the trigger that counts."""

    __tablename__ = "quota_defaults"

    what: Mapped[str] = mapped_column(primary_key=True)
    most: Mapped[int] = mapped_column(BigInteger)

"""How long readings are kept, where somebody has said so."""

from __future__ import annotations

from typing import Any

from sqlalchemy import BigInteger, ForeignKeyConstraint
from sqlalchemy.orm import Mapped, mapped_column

from iotplatform.adapters.postgres.models.schema import FIRST_VERSION, Model, epoch_column


class RetentionRow(Model):
    __tablename__ = "retention"

    epoch: Mapped[int] = epoch_column("retention", primary_key=True)
    definition: Mapped[dict[str, Any]]
    version: Mapped[int] = mapped_column(server_default=FIRST_VERSION)


class DeviceRetentionRow(Model):
    __tablename__ = "device_retention"
    __table_args__ = (
        ForeignKeyConstraint(
            ["epoch", "device_id"],
            ["devices.epoch", "devices.id"],
            ondelete="CASCADE",
            name="device_retention_device_fkey",
        ),
    )

    epoch: Mapped[int] = mapped_column(BigInteger, primary_key=True, autoincrement=False)
    device_id: Mapped[str] = mapped_column(primary_key=True)
    definition: Mapped[dict[str, Any]]
    version: Mapped[int] = mapped_column(server_default=FIRST_VERSION)

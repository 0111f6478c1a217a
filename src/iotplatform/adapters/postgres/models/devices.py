"""Devices, their tokens, and the keys that sign them."""

from __future__ import annotations

import datetime as dt
from typing import Any

from sqlalchemy import BigInteger, ForeignKeyConstraint, Index, UniqueConstraint, text
from sqlalchemy.orm import Mapped, mapped_column

from iotplatform.adapters.postgres.models.schema import FIRST_VERSION, NOW, Model, epoch_column


class DeviceRow(Model):
    __tablename__ = "devices"
    __table_args__ = (Index("devices_tags", "tags", postgresql_using="gin"),)

    epoch: Mapped[int] = epoch_column("devices", primary_key=True)
    id: Mapped[str] = mapped_column(primary_key=True)
    name: Mapped[str]
    tags: Mapped[list[str]] = mapped_column(server_default=text("'{}'"))
    # `metadata` is taken by SQLAlchemy itself.
    attributes: Mapped[dict[str, Any]] = mapped_column("metadata", server_default=text("'{}'"))
    created_at: Mapped[dt.datetime] = mapped_column(server_default=NOW)
    version: Mapped[int] = mapped_column(server_default=FIRST_VERSION)


class DeviceTokenRow(Model):
    __tablename__ = "device_tokens"
    __table_args__ = (
        ForeignKeyConstraint(
            ["epoch", "device_id"],
            ["devices.epoch", "devices.id"],
            ondelete="CASCADE",
            name="device_tokens_device_fkey",
        ),
        Index("device_tokens_device", "epoch", "device_id"),
        UniqueConstraint("secret_hash", name="device_tokens_secret_hash_key"),
    )

    id: Mapped[str] = mapped_column(primary_key=True)
    epoch: Mapped[int] = mapped_column(BigInteger)
    device_id: Mapped[str]
    kind: Mapped[str]
    # SHA-256 of an opaque key; a JWT is stored nowhere.
    secret_hash: Mapped[bytes | None]
    created_at: Mapped[dt.datetime] = mapped_column(server_default=NOW)
    expires_at: Mapped[dt.datetime]
    revoked_at: Mapped[dt.datetime | None]


class SigningKeyRow(Model):
    __tablename__ = "signing_keys"

    kid: Mapped[str] = mapped_column(primary_key=True)
    public_pem: Mapped[str]
    created_at: Mapped[dt.datetime] = mapped_column(server_default=NOW)


class DeviceRemovalRow(Model):
    """A device that was deleted: its readings up to position `cut` are removed, also those that arrive late."""

    __tablename__ = "device_removals"

    epoch: Mapped[int] = epoch_column("device_removals", primary_key=True)
    device_id: Mapped[str] = mapped_column(primary_key=True)
    cut: Mapped[int] = mapped_column(BigInteger)
    settled: Mapped[bool] = mapped_column(server_default=text("false"))
    requested_at: Mapped[dt.datetime] = mapped_column(server_default=NOW)

"""How devices come in: mappings of the topics of gateways, and the keys by which devices register themselves."""

from __future__ import annotations

import datetime as dt
from typing import Any

from sqlalchemy import UniqueConstraint, text
from sqlalchemy.orm import Mapped, mapped_column

from iotplatform.adapters.postgres.models.schema import FIRST_VERSION, NOW, ZERO, Model, epoch_column


class MappingRow(Model):
    __tablename__ = "mappings"

    epoch: Mapped[int] = epoch_column("mappings", primary_key=True)
    id: Mapped[str] = mapped_column(primary_key=True)
    definition: Mapped[dict[str, Any]]
    version: Mapped[int] = mapped_column(server_default=FIRST_VERSION)
    created_at: Mapped[dt.datetime] = mapped_column(server_default=NOW)
    updated_at: Mapped[dt.datetime] = mapped_column(server_default=NOW)


class ProvisioningKeyRow(Model):
    """The key itself is stored nowhere; `max_uses` absent: any number."""

    __tablename__ = "provisioning_keys"
    __table_args__ = (UniqueConstraint("secret_hash", name="provisioning_keys_secret_hash_key"),)

    epoch: Mapped[int] = epoch_column("provisioning_keys", primary_key=True)
    id: Mapped[str] = mapped_column(primary_key=True)
    name: Mapped[str]
    secret_hash: Mapped[str]
    tags: Mapped[list[str]] = mapped_column(server_default=text("'{}'"))
    max_uses: Mapped[int | None]
    uses: Mapped[int] = mapped_column(server_default=ZERO)
    created_at: Mapped[dt.datetime] = mapped_column(server_default=NOW)
    expires_at: Mapped[dt.datetime | None]
    revoked_at: Mapped[dt.datetime | None]

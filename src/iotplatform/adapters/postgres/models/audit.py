"""Who did what."""

from __future__ import annotations

import datetime as dt
import uuid
from typing import Any

from sqlalchemy import BigInteger, Identity, Index, text
from sqlalchemy.orm import Mapped, mapped_column

from iotplatform.adapters.postgres.models.schema import NOW, Model


class AuditRow(Model):
    """Written by the trigger `record_audit`, or for a whole request; no foreign key, so it outlives its subject."""

    __tablename__ = "audit"
    __table_args__ = (
        Index("audit_organization", "organization_epoch", text("id DESC")),
        Index("audit_at", "at"),
        Index("audit_request", "request", postgresql_where=text("request IS NOT NULL")),
    )

    id: Mapped[int] = mapped_column(BigInteger, Identity(always=True), primary_key=True)
    at: Mapped[dt.datetime] = mapped_column(server_default=NOW)
    organization_epoch: Mapped[int | None] = mapped_column(BigInteger)
    organization_id: Mapped[str | None]
    actor: Mapped[str]
    actor_kind: Mapped[str]
    address: Mapped[str | None]
    request: Mapped[uuid.UUID | None]
    action: Mapped[str]
    kind: Mapped[str]
    subject: Mapped[str]
    old: Mapped[dict[str, Any] | None]
    new: Mapped[dict[str, Any] | None]

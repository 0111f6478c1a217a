"""Rules with their history, and packs of rules."""

from __future__ import annotations

import datetime as dt
from typing import Any

from sqlalchemy import ForeignKey, Index, text
from sqlalchemy.orm import Mapped, mapped_column

from iotplatform.adapters.postgres.models.schema import NOW, ONE, Model, epoch_column


class RuleRow(Model):
    """`pack_id`: it belongs to the pack, and only `switched_off` is the organization's own affair."""

    __tablename__ = "rules"

    epoch: Mapped[int] = epoch_column("rules", primary_key=True)
    id: Mapped[str] = mapped_column(primary_key=True)
    definition: Mapped[dict[str, Any]]
    version: Mapped[int] = mapped_column(server_default=ONE)
    pack_id: Mapped[str | None]
    switched_off: Mapped[bool] = mapped_column(server_default=text("false"))
    created_at: Mapped[dt.datetime] = mapped_column(server_default=NOW)
    updated_at: Mapped[dt.datetime] = mapped_column(server_default=NOW)
    changed_by: Mapped[str | None]


class RuleVersionRow(Model):
    """One state of a rule; without a definition it was deleted. A trigger writes all but the deletions."""

    __tablename__ = "rule_versions"
    __table_args__ = (
        Index("rule_versions_deleted", "epoch", "changed_at", postgresql_where=text("definition IS NULL")),
    )

    epoch: Mapped[int] = epoch_column("rule_versions", primary_key=True)
    rule_id: Mapped[str] = mapped_column(primary_key=True)
    version: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    definition: Mapped[dict[str, Any] | None]
    pack_id: Mapped[str | None]
    changed_at: Mapped[dt.datetime] = mapped_column(server_default=NOW)
    changed_by: Mapped[str | None]


class RulePackRow(Model):
    __tablename__ = "rule_packs"

    id: Mapped[str] = mapped_column(primary_key=True)
    name: Mapped[str]
    rules: Mapped[list[Any]]
    version: Mapped[int] = mapped_column(server_default=ONE)
    created_at: Mapped[dt.datetime] = mapped_column(server_default=NOW)
    updated_at: Mapped[dt.datetime] = mapped_column(server_default=NOW)
    changed_by: Mapped[str | None]


class RulePackVersionRow(Model):
    __tablename__ = "rule_pack_versions"

    pack_id: Mapped[str] = mapped_column(
        ForeignKey("rule_packs.id", ondelete="CASCADE", name="rule_pack_versions_pack_fkey"), primary_key=True
    )
    version: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    name: Mapped[str]
    rules: Mapped[list[Any]]
    changed_at: Mapped[dt.datetime] = mapped_column(server_default=NOW)
    changed_by: Mapped[str | None]


class RulePackOrganizationRow(Model):
    """An organization that a pack is applied to: with the version it has, and the one that was tried last."""

    __tablename__ = "rule_pack_organizations"
    __table_args__ = (Index("rule_pack_organizations_epoch", "epoch"),)

    pack_id: Mapped[str] = mapped_column(
        ForeignKey("rule_packs.id", name="rule_pack_organizations_pack_fkey"), primary_key=True
    )
    epoch: Mapped[int] = epoch_column("rule_pack_organizations", primary_key=True)
    version: Mapped[int]
    tried: Mapped[int]
    fault: Mapped[str | None]
    updated_at: Mapped[dt.datetime] = mapped_column(server_default=NOW)
    changed_by: Mapped[str | None]

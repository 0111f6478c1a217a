"""Organizations, and those that are being removed."""

from __future__ import annotations

import datetime as dt

from sqlalchemy import BigInteger, UniqueConstraint
from sqlalchemy.orm import Mapped, mapped_column

from iotplatform.adapters.postgres.models.schema import EPOCHS, FIRST_VERSION, NOW, ZERO, Model, epoch_column


class OrganizationRow(Model):
    __tablename__ = "organizations"
    __table_args__ = (UniqueConstraint("id", name="organizations_id_key"),)

    epoch: Mapped[int] = mapped_column(BigInteger, primary_key=True, server_default=EPOCHS.next_value())
    id: Mapped[str]
    name: Mapped[str]
    partitions: Mapped[int]
    created_at: Mapped[dt.datetime] = mapped_column(server_default=NOW)
    version: Mapped[int] = mapped_column(server_default=FIRST_VERSION)


class RemovalRow(Model):
    """An organization that was deleted, and of which not everything is removed yet."""

    __tablename__ = "removals"

    epoch: Mapped[int] = mapped_column(BigInteger, primary_key=True, autoincrement=False)
    organization_id: Mapped[str]
    partitions: Mapped[int]
    requested_at: Mapped[dt.datetime] = mapped_column(server_default=NOW)


class ImportRow(Model):
    """An organization that came out of a file; `checksum` is that of the file's manifest, `parts` are its readings'."""

    __tablename__ = "imports"

    epoch: Mapped[int] = epoch_column("imports", primary_key=True)
    checksum: Mapped[str]
    parts: Mapped[int] = mapped_column(server_default=ZERO)
    begun_at: Mapped[dt.datetime] = mapped_column(server_default=NOW)
    finished_at: Mapped[dt.datetime | None]

"""The live processes, and what triggers tell them."""

from __future__ import annotations

import datetime as dt

from sqlalchemy import BigInteger, Index, text
from sqlalchemy.orm import Mapped, mapped_column

from iotplatform.adapters.postgres.models.schema import NOW, Model, Xid8


class MemberRow(Model):
    """A live process of a role."""

    __tablename__ = "members"

    role: Mapped[str] = mapped_column(primary_key=True)
    id: Mapped[str] = mapped_column(primary_key=True)
    joined_at: Mapped[dt.datetime] = mapped_column(server_default=NOW)
    seen_at: Mapped[dt.datetime] = mapped_column(server_default=NOW)


class IngestionRow(Model):
    """A process of ingestion: since when without interruption, and until when it could store what arrives."""

    __tablename__ = "ingestion"

    id: Mapped[str] = mapped_column(primary_key=True)
    since: Mapped[dt.datetime] = mapped_column(server_default=NOW)
    until: Mapped[dt.datetime] = mapped_column(server_default=NOW)


class ChangeRow(Model):
    """What triggers have seen change; `txid` lets a reader find the rows of a transaction that committed late."""

    __tablename__ = "changes"
    __table_args__ = (Index("changes_txid", "txid"),)

    id: Mapped[int] = mapped_column(BigInteger, primary_key=True)
    txid: Mapped[int] = mapped_column(Xid8(), server_default=text("pg_current_xact_id()"))
    kind: Mapped[str]
    epoch: Mapped[int | None] = mapped_column(BigInteger)
    key: Mapped[str]
    at: Mapped[dt.datetime] = mapped_column(server_default=NOW)

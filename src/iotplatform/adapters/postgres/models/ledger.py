"""Positions, and what the ledger counts with them."""

from __future__ import annotations

import datetime as dt

from sqlalchemy import BigInteger, Identity, Integer, UniqueConstraint
from sqlalchemy.orm import Mapped, mapped_column

from iotplatform.adapters.postgres.models.schema import NOW, ZERO, Model, epoch_column


class PartitionRow(Model):
    """Persistence's position in an organization's stream, and the ledger's counts that are added with it.

    `folded` is the sum of the totals of lanes that have ended, `trimmed` the sequence below which the partition's
    subjects were trimmed. `tries` counts those who took hold since the position last moved and did not let go in order,
    the present holder included, and `suspect_tries` how often the block at the sequence `suspect` was taken up alone.
    """

    __tablename__ = "partitions"

    epoch: Mapped[int] = epoch_column("partitions", primary_key=True)
    number: Mapped[int] = mapped_column(Integer, primary_key=True, autoincrement=False)
    position: Mapped[int] = mapped_column(BigInteger, server_default=ZERO)
    stored: Mapped[int] = mapped_column(BigInteger, server_default=ZERO)
    dead_lettered: Mapped[int] = mapped_column(BigInteger, server_default=ZERO)
    folded: Mapped[int] = mapped_column(BigInteger, server_default=ZERO)
    trimmed: Mapped[int] = mapped_column(BigInteger, server_default=ZERO)
    tries: Mapped[int] = mapped_column(server_default=ZERO)
    suspect: Mapped[int] = mapped_column(BigInteger, server_default=ZERO)
    suspect_tries: Mapped[int] = mapped_column(server_default=ZERO)


class LaneRow(Model):
    """The last number and running total that a lane has put into its blocks: what the ledger counts as accepted."""

    __tablename__ = "lanes"

    epoch: Mapped[int] = epoch_column("lanes", primary_key=True)
    partition: Mapped[int] = mapped_column(Integer, primary_key=True, autoincrement=False)
    id: Mapped[str] = mapped_column(primary_key=True)
    source: Mapped[str]
    last_number: Mapped[int] = mapped_column(BigInteger)
    total: Mapped[int] = mapped_column(BigInteger)
    seen_at: Mapped[dt.datetime]


class GapRow(Model):
    """Something that vanished from a stream: numbers of a lane with their `readings`, or a `sequence` of the stream."""

    __tablename__ = "gaps"
    __table_args__ = (
        UniqueConstraint(
            "epoch",
            "partition",
            "lane",
            "first_number",
            "sequence",
            name="gaps_what_key",
            postgresql_nulls_not_distinct=True,
        ),
    )

    id: Mapped[int] = mapped_column(BigInteger, Identity(always=True), primary_key=True)
    epoch: Mapped[int] = epoch_column("gaps")
    partition: Mapped[int | None]
    lane: Mapped[str | None]
    first_number: Mapped[int | None] = mapped_column(BigInteger)
    last_number: Mapped[int | None] = mapped_column(BigInteger)
    readings: Mapped[int | None] = mapped_column(BigInteger)
    sequence: Mapped[int | None] = mapped_column(BigInteger)
    found_at: Mapped[dt.datetime] = mapped_column(server_default=NOW)


class ReplayedLetterRow(Model):
    """A place in an organization's stream of dead letters, whose letter was replayed and is no more."""

    __tablename__ = "replayed_letters"

    epoch: Mapped[int] = epoch_column("replayed_letters", primary_key=True)
    place: Mapped[int] = mapped_column(BigInteger, primary_key=True, autoincrement=False)


class CheckpointRow(Model):
    """A position up to which analysis is done for sure."""

    __tablename__ = "checkpoints"

    epoch: Mapped[int] = epoch_column("checkpoints", primary_key=True)
    partition: Mapped[int] = mapped_column(Integer, primary_key=True, autoincrement=False)
    position: Mapped[int] = mapped_column(BigInteger)


class PositionRow(Model):
    """The positions of the readers of the stream NOTIFICATIONS."""

    __tablename__ = "positions"

    reader: Mapped[str] = mapped_column(primary_key=True)
    position: Mapped[int] = mapped_column(BigInteger, server_default=ZERO)

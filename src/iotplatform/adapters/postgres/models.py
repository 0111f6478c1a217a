"""The schema as SQLAlchemy sees it. The migrations make it; a test holds the two together."""

from __future__ import annotations

import datetime as dt
import uuid
from typing import Any, ClassVar

from sqlalchemy import (
    BigInteger,
    CheckConstraint,
    DateTime,
    Double,
    ForeignKey,
    ForeignKeyConstraint,
    Identity,
    Index,
    Integer,
    Sequence,
    SmallInteger,
    Text,
    UniqueConstraint,
    Uuid,
    text,
)
from sqlalchemy.dialects.postgresql import ARRAY, JSONB
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column
from sqlalchemy.types import UserDefinedType


class Xid8(UserDefinedType[int]):
    """A transaction id that never wraps."""

    cache_ok = True

    def get_col_spec(self, **_: Any) -> str:
        return "xid8"


class Model(DeclarativeBase):
    type_annotation_map: ClassVar[dict[Any, Any]] = {
        str: Text(),
        dt.datetime: DateTime(timezone=True),
        float: Double(),
        uuid.UUID: Uuid(),
        list[str]: ARRAY(Text()),
        dict[str, Any]: JSONB(),
        list[Any]: JSONB(),
    }


EPOCHS = Sequence("epochs", metadata=Model.metadata)
NOW = text("now()")
ZERO = text("0")
ONE = text("1")


def _epoch(table: str, *, primary_key: bool = False) -> Mapped[int]:
    return mapped_column(
        BigInteger,
        ForeignKey("organizations.epoch", ondelete="CASCADE", name=f"{table}_epoch_fkey"),
        primary_key=primary_key,
        autoincrement=False,
    )


class OrganizationRow(Model):
    __tablename__ = "organizations"
    __table_args__ = (UniqueConstraint("id", name="organizations_id_key"),)

    epoch: Mapped[int] = mapped_column(BigInteger, primary_key=True, server_default=EPOCHS.next_value())
    id: Mapped[str]
    name: Mapped[str]
    partitions: Mapped[int]
    created_at: Mapped[dt.datetime] = mapped_column(server_default=NOW)
    version: Mapped[int] = mapped_column(server_default=ONE)


class DeviceRow(Model):
    __tablename__ = "devices"
    __table_args__ = (Index("devices_tags", "tags", postgresql_using="gin"),)

    epoch: Mapped[int] = _epoch("devices", primary_key=True)
    id: Mapped[str] = mapped_column(primary_key=True)
    name: Mapped[str]
    tags: Mapped[list[str]] = mapped_column(server_default=text("'{}'"))
    # `metadata` is taken by SQLAlchemy itself.
    attributes: Mapped[dict[str, Any]] = mapped_column("metadata", server_default=text("'{}'"))
    created_at: Mapped[dt.datetime] = mapped_column(server_default=NOW)
    version: Mapped[int] = mapped_column(server_default=ONE)


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
    )

    id: Mapped[str] = mapped_column(primary_key=True)
    epoch: Mapped[int] = mapped_column(BigInteger)
    device_id: Mapped[str]
    kind: Mapped[str]
    created_at: Mapped[dt.datetime] = mapped_column(server_default=NOW)
    expires_at: Mapped[dt.datetime]
    revoked_at: Mapped[dt.datetime | None]


class SigningKeyRow(Model):
    __tablename__ = "signing_keys"

    kid: Mapped[str] = mapped_column(primary_key=True)
    public_pem: Mapped[str]
    created_at: Mapped[dt.datetime] = mapped_column(server_default=NOW)


class RuleRow(Model):
    __tablename__ = "rules"

    epoch: Mapped[int] = _epoch("rules", primary_key=True)
    id: Mapped[str] = mapped_column(primary_key=True)
    definition: Mapped[dict[str, Any]]
    version: Mapped[int] = mapped_column(server_default=ONE)
    created_at: Mapped[dt.datetime] = mapped_column(server_default=NOW)
    updated_at: Mapped[dt.datetime] = mapped_column(server_default=NOW)


class ChannelRow(Model):
    __tablename__ = "channels"

    epoch: Mapped[int] = _epoch("channels", primary_key=True)
    id: Mapped[str] = mapped_column(primary_key=True)
    name: Mapped[str]
    type: Mapped[str]
    enabled: Mapped[bool] = mapped_column(server_default=text("true"))
    severities: Mapped[list[str]]
    config: Mapped[dict[str, Any]] = mapped_column(server_default=text("'{}'"))
    created_at: Mapped[dt.datetime] = mapped_column(server_default=NOW)
    updated_at: Mapped[dt.datetime] = mapped_column(server_default=NOW)
    version: Mapped[int] = mapped_column(server_default=ONE)


class AlarmRow(Model):
    __tablename__ = "alarms"
    __table_args__ = (
        CheckConstraint("state IN ('active', 'cleared')", name="alarms_state_check"),
        Index(
            "alarms_one_active",
            "epoch",
            "rule_id",
            "device_id",
            "sensor",
            unique=True,
            postgresql_where=text("state = 'active'"),
        ),
        Index("alarms_newest", "epoch", text("raised_at DESC"), "id"),
    )

    id: Mapped[uuid.UUID] = mapped_column(primary_key=True)
    epoch: Mapped[int] = _epoch("alarms")
    rule_id: Mapped[str]
    rule_name: Mapped[str]
    device_id: Mapped[str]
    sensor: Mapped[str]
    severity: Mapped[str]
    state: Mapped[str]
    condition: Mapped[str]
    raised_at: Mapped[dt.datetime]
    first_breach_at: Mapped[dt.datetime]
    cleared_at: Mapped[dt.datetime | None]
    clear_reason: Mapped[str | None]
    acknowledged_at: Mapped[dt.datetime | None]
    acknowledged_by: Mapped[str | None]
    assigned_to: Mapped[str | None]
    trigger_value: Mapped[float]
    readings: Mapped[list[Any]]
    position: Mapped[int] = mapped_column(BigInteger)
    cleared_position: Mapped[int | None] = mapped_column(BigInteger)
    created_at: Mapped[dt.datetime] = mapped_column(server_default=NOW)


class SeriesRow(Model):
    __tablename__ = "series"
    __table_args__ = (UniqueConstraint("epoch", "device_id", "sensor", name="series_epoch_device_id_sensor_key"),)

    id: Mapped[int] = mapped_column(Integer, Identity(always=True), primary_key=True)
    # No foreign key: the series of a deleted organization name the readings that are still to be removed.
    epoch: Mapped[int] = mapped_column(BigInteger)
    device_id: Mapped[str]
    sensor: Mapped[str]


class ReadingRow(Model):
    """`kind`: 0 number and 1 boolean in `value`, 2 text in `text`."""

    __tablename__ = "readings"

    series_id: Mapped[int] = mapped_column(Integer, primary_key=True, autoincrement=False)
    kind: Mapped[int] = mapped_column(SmallInteger)
    at: Mapped[dt.datetime] = mapped_column(primary_key=True)
    value: Mapped[float | None]
    position: Mapped[int] = mapped_column(BigInteger)
    text: Mapped[str | None]


class PartitionRow(Model):
    """Persistence's position in an organization's stream, and the ledger's counts that are added with it.

    `folded` is the sum of the totals of lanes that have ended, `trimmed` the sequence below which the partition's
    subjects were trimmed. `tries` counts those who took hold since the position last moved and did not let go in order,
    the present holder included, and `suspect_tries` how often the block at the sequence `suspect` was taken up alone.
    """

    __tablename__ = "partitions"

    epoch: Mapped[int] = _epoch("partitions", primary_key=True)
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

    epoch: Mapped[int] = _epoch("lanes", primary_key=True)
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
    epoch: Mapped[int] = _epoch("gaps")
    partition: Mapped[int | None]
    lane: Mapped[str | None]
    first_number: Mapped[int | None] = mapped_column(BigInteger)
    last_number: Mapped[int | None] = mapped_column(BigInteger)
    readings: Mapped[int | None] = mapped_column(BigInteger)
    sequence: Mapped[int | None] = mapped_column(BigInteger)
    found_at: Mapped[dt.datetime] = mapped_column(server_default=NOW)


class RemovalRow(Model):
    """An organization that was deleted, and of which not everything is removed yet."""

    __tablename__ = "removals"

    epoch: Mapped[int] = mapped_column(BigInteger, primary_key=True, autoincrement=False)
    organization_id: Mapped[str]
    partitions: Mapped[int]
    requested_at: Mapped[dt.datetime] = mapped_column(server_default=NOW)


class MemberRow(Model):
    """A live process of a role."""

    __tablename__ = "members"

    role: Mapped[str] = mapped_column(primary_key=True)
    id: Mapped[str] = mapped_column(primary_key=True)
    joined_at: Mapped[dt.datetime] = mapped_column(server_default=NOW)
    seen_at: Mapped[dt.datetime] = mapped_column(server_default=NOW)


class PositionRow(Model):
    """The positions of the readers of the stream NOTIFICATIONS."""

    __tablename__ = "positions"

    reader: Mapped[str] = mapped_column(primary_key=True)
    position: Mapped[int] = mapped_column(BigInteger, server_default=ZERO)


class DeliveryRow(Model):
    __tablename__ = "deliveries"
    __table_args__ = (
        CheckConstraint("state IN ('pending', 'sent', 'failed')", name="deliveries_state_check"),
        UniqueConstraint("alarm_id", "transition", "channel_id", name="deliveries_alarm_id_transition_channel_id_key"),
        Index("deliveries_due", "next_attempt_at", postgresql_where=text("state = 'pending'")),
        Index("deliveries_newest", "epoch", text("created_at DESC"), "id"),
    )

    id: Mapped[uuid.UUID] = mapped_column(primary_key=True)
    epoch: Mapped[int] = _epoch("deliveries")
    alarm_id: Mapped[uuid.UUID]
    channel_id: Mapped[str]
    transition: Mapped[str]
    state: Mapped[str]
    event: Mapped[dict[str, Any]]
    attempts: Mapped[list[Any]] = mapped_column(server_default=text("'[]'"))
    next_attempt_at: Mapped[dt.datetime | None]
    created_at: Mapped[dt.datetime] = mapped_column(server_default=NOW)


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

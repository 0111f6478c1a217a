"""Series and their readings."""

from __future__ import annotations

import datetime as dt

from sqlalchemy import BigInteger, Identity, Integer, SmallInteger, UniqueConstraint
from sqlalchemy.orm import Mapped, mapped_column

from iotplatform.adapters.postgres.models.schema import Model, epoch_column


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


class SeriesUnitRow(Model):
    """The unit that a device tells of a series; it may be told before the series' first reading is stored."""

    __tablename__ = "series_units"

    epoch: Mapped[int] = epoch_column("series_units", primary_key=True)
    device_id: Mapped[str] = mapped_column(primary_key=True)
    sensor: Mapped[str] = mapped_column(primary_key=True)
    unit: Mapped[str]

"""Rollups of readings, and what is known of how far they can be trusted."""

from __future__ import annotations

import datetime as dt

from sqlalchemy import BigInteger, Integer, text
from sqlalchemy.orm import Mapped, mapped_column

from iotplatform.adapters.postgres.models.schema import Model

_NO = text("false")


class _Rollup(Model):
    """`amount` is the sum of the values below 1e290, `large` that of the others times 2^-128."""

    __abstract__ = True

    series_id: Mapped[int] = mapped_column(Integer, primary_key=True, autoincrement=False)
    at: Mapped[dt.datetime] = mapped_column(primary_key=True)
    readings: Mapped[int] = mapped_column(BigInteger)
    numbers: Mapped[int] = mapped_column(BigInteger)
    lowest: Mapped[float | None]
    highest: Mapped[float | None]
    amount: Mapped[float]
    large: Mapped[float]
    first_at: Mapped[dt.datetime]
    last_at: Mapped[dt.datetime]


class MinuteRow(_Rollup):
    __tablename__ = "rollups_minute"


class HourRow(_Rollup):
    """`by_minute`: the minutes of the hour are kept too."""

    __tablename__ = "rollups_hour"

    by_minute: Mapped[bool] = mapped_column(server_default=_NO)


class DayRow(_Rollup):
    __tablename__ = "rollups_day"


class RollupMarkRow(Model):
    """An hour that was written to after it was closed."""

    __tablename__ = "rollup_marks"

    series_id: Mapped[int] = mapped_column(Integer, primary_key=True, autoincrement=False)
    hour: Mapped[dt.datetime] = mapped_column(primary_key=True)


class RollupWorkRow(Model):
    """An hour that is to be computed."""

    __tablename__ = "rollup_work"

    series_id: Mapped[int] = mapped_column(Integer, primary_key=True, autoincrement=False)
    hour: Mapped[dt.datetime] = mapped_column(primary_key=True)


class RollupBacklogRow(Model):
    """A series of which nothing was rolled up yet."""

    __tablename__ = "rollup_backlog"

    series_id: Mapped[int] = mapped_column(Integer, primary_key=True, autoincrement=False)


class RollupStateRow(Model):
    """One row: marks are left below `closing`, rollups answer below `closed`."""

    __tablename__ = "rollup_state"

    id: Mapped[int] = mapped_column(Integer, primary_key=True, autoincrement=False)
    closing: Mapped[dt.datetime]
    closed: Mapped[dt.datetime]
    generation: Mapped[int] = mapped_column(BigInteger)

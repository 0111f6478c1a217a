"""What is remembered of the partitions of `readings`, which themselves are no models: they come and go."""

from __future__ import annotations

import datetime as dt

from sqlalchemy import BigInteger
from sqlalchemy.orm import Mapped, mapped_column

from iotplatform.adapters.postgres.models.schema import NOW, Model


class PackedPartitionRow(Model):
    """A partition whose index was packed, and how large it was then."""

    __tablename__ = "packed_partitions"

    name: Mapped[str] = mapped_column(primary_key=True)
    index_bytes: Mapped[int] = mapped_column(BigInteger)
    packed_at: Mapped[dt.datetime] = mapped_column(server_default=NOW)

"""What every table of the schema is made of."""

from __future__ import annotations

import datetime as dt
import uuid
from typing import Any, ClassVar

from sqlalchemy import BigInteger, DateTime, Double, ForeignKey, Sequence, Text, Uuid, text
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
# Where a version begins that is an ETag: anywhere, so that what is made again under its id is another thing.
FIRST_VERSION = text("first_version()")


def epoch_column(table: str, *, primary_key: bool = False) -> Mapped[int]:
    return mapped_column(
        BigInteger,
        ForeignKey("organizations.epoch", ondelete="CASCADE", name=f"{table}_epoch_fkey"),
        primary_key=primary_key,
        autoincrement=False,
    )

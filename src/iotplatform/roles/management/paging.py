"""Pages of lists: a limit, and an opaque cursor that says after what the next page begins."""

from __future__ import annotations

import base64
import datetime as dt
import uuid
from collections.abc import Callable, Sequence
from typing import Annotated, Any, Final, Generic, TypeVar

import msgspec
from litestar.params import QueryParameter

from iotplatform.domain.timestamps import to_datetime, to_microseconds
from iotplatform.errors import Fault, Rejected

T = TypeVar("T")
Row = TypeVar("Row")

DEFAULT_LIMIT: Final = 100
Limit = Annotated[int, QueryParameter(ge=1, le=1_000, description="how many items at most")]
MaybeLimit = Annotated[int | None, QueryParameter(ge=1, le=1_000, description="how many items at most; absent: 100")]
Cursor = Annotated[str | None, QueryParameter(description="`next_cursor` of the page before")]

# A cursor comes back from outside: it must not hold what a query can't take.
_Text = Annotated[str, msgspec.Meta(max_length=1_024, pattern=r"^[^\x00]*\Z")]
_Moment = Annotated[int, msgspec.Meta(ge=0, le=253_402_214_400_000_000)]
_Place = Annotated[int, msgspec.Meta(ge=0, le=(1 << 63) - 1)]

BY_ID: Final[msgspec.json.Decoder[str]] = msgspec.json.Decoder(_Text)
BY_PLACE: Final[msgspec.json.Decoder[int]] = msgspec.json.Decoder(_Place)
# Below 0 in the stream of letters that earlier versions had.
BY_LETTER: Final[msgspec.json.Decoder[int]] = msgspec.json.Decoder(
    Annotated[int, msgspec.Meta(gt=-(1 << 63), le=(1 << 63) - 1)]
)
BY_SERIES: Final[msgspec.json.Decoder[tuple[str, str]]] = msgspec.json.Decoder(tuple[_Text, _Text])
# An interval may begin before 1970, in a time zone ahead of UTC.
_Start = Annotated[int, msgspec.Meta(ge=-40_000_000_000_000_000, le=253_402_214_400_000_000)]
BY_SERIES_AND_START: Final[msgspec.json.Decoder[tuple[str, str, int]]] = msgspec.json.Decoder(
    tuple[_Text, _Text, _Start]
)
BY_TIME_AND_ID: Final[msgspec.json.Decoder[tuple[int, uuid.UUID]]] = msgspec.json.Decoder(tuple[_Moment, uuid.UUID])


class Page(msgspec.Struct, Generic[T], frozen=True):
    items: list[T]
    next_cursor: str | None


def page(found: Sequence[Row], limit: int, show: Callable[[Row], T], place: Callable[[Row], Any]) -> Page[T]:
    """A page out of one row more than fits on it; `place` is what the cursor of the last one holds."""
    shown = found[:limit]
    next_cursor = encode_cursor(place(shown[-1])) if len(found) > limit else None
    return Page([show(row) for row in shown], next_cursor)


def encode_cursor(place: Any) -> str:
    return base64.urlsafe_b64encode(msgspec.json.encode(place)).rstrip(b"=").decode()


def decode_cursor(cursor: str | None, place: msgspec.json.Decoder[T]) -> T | None:
    """What a cursor holds.

    Raises:
        Rejected: it is none of ours, or of another list.
    """
    if cursor is None:
        return None
    try:
        data = base64.b64decode(cursor + "=" * (-len(cursor) % 4), altchars=b"-_", validate=True)
        return place.decode(data)
    except (ValueError, UnicodeError) as error:
        fault = Fault("is no cursor of this list", field="cursor")
        raise Rejected("invalid", "the cursor is not valid", faults=(fault,)) from error


def decode_time_cursor(cursor: str | None) -> tuple[dt.datetime, uuid.UUID] | None:
    """For the lists that begin with the newest."""
    place = decode_cursor(cursor, BY_TIME_AND_ID)
    return None if place is None else (to_datetime(place[0]), place[1])


def time_place(at: dt.datetime, identifier: uuid.UUID) -> tuple[int, uuid.UUID]:
    return to_microseconds(at), identifier

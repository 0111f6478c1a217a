"""Types of fields in bodies, with the sentence of what is wrong coming from `requests`."""

from __future__ import annotations

from typing import Annotated

import msgspec

from iotplatform.domain.identifiers import IDENTIFIER_PATTERN
from iotplatform.domain.timestamps import parse_timestamp, to_datetime
from iotplatform.errors import Fault, Rejected
from iotplatform.roles.management.requests import TEXT_PATTERN

Identifier = Annotated[str, msgspec.Meta(pattern=IDENTIFIER_PATTERN)]
Name = Annotated[str, msgspec.Meta(min_length=1, max_length=200, pattern=TEXT_PATTERN)]
Tag = Annotated[str, msgspec.Meta(min_length=1, max_length=100, pattern=TEXT_PATTERN)]
# RFC 3339, or an epoch number.
Moment = str | int | float


class Body(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """What a request may hold; a field that nobody knows is refused rather than ignored."""


def parsed_moment(field: str, moment: Moment) -> int:
    """Microseconds.

    Raises:
        Rejected: it is no time.
    """
    try:
        at = parse_timestamp(moment)
        to_datetime(at)
    except (ValueError, OverflowError) as error:
        detail = "is no time" if isinstance(error, OverflowError) else str(error)
        raise Rejected("invalid", "the body is not valid", faults=(Fault(detail, field=field),)) from error
    return at

"""Types of fields in bodies, with the sentence of what is wrong coming from `requests`."""

from __future__ import annotations

from typing import Annotated

import msgspec

from iotplatform.domain.identifiers import IDENTIFIER_PATTERN
from iotplatform.roles.management.requests import TEXT_PATTERN

Identifier = Annotated[str, msgspec.Meta(pattern=IDENTIFIER_PATTERN)]
Name = Annotated[str, msgspec.Meta(min_length=1, max_length=200, pattern=TEXT_PATTERN)]
Tag = Annotated[str, msgspec.Meta(min_length=1, max_length=100, pattern=TEXT_PATTERN)]


class Body(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """What a request may hold; a field that nobody knows is refused rather than ignored."""

"""Versions as entity tags, so that two people who change the same thing notice each other (RFC 9110, section 13)."""

from __future__ import annotations

import re
from typing import Annotated, Final

from litestar.params import HeaderParameter

from iotplatform.domain.precondition import NO_PRECONDITION, Precondition
from iotplatform.errors import Fault, Rejected

IfMatch = Annotated[
    str | None,
    HeaderParameter(name="If-Match", description='`ETag` of an answer, such as `"3"`: change only that version'),
]
IfNoneMatch = Annotated[
    str | None, HeaderParameter(name="If-None-Match", description="only `*`: make it, unless it exists")
]

MAX_HEADER_LENGTH: Final = 1_000
_TAGS: Final = re.compile(r'\s*(?:W/)?"[^"\s]*"(?:\s*,\s*(?:W/)?"[^"\s]*")*\s*')
# A weak tag never matches where a change depends on it; one that is none of ours matches nothing either.
_OURS: Final = re.compile(r'(?:^|[\s,])"([1-9][0-9]{0,17})"')


def etag(version: int) -> str:
    return f'"{version}"'


def precondition(if_match: str | None, if_none_match: str | None = None) -> Precondition:
    """What the two headers ask for.

    Raises:
        Rejected: one of them says nothing that could be meant.
    """
    if if_match is None and if_none_match is None:
        return NO_PRECONDITION
    if if_none_match is not None and if_none_match.strip() != "*":
        raise _invalid("If-None-Match", "can only be *")
    exists = False if if_none_match is not None else None
    if if_match is None:
        return Precondition(exists=exists)
    if exists is False:
        raise _invalid("If-None-Match", "can't be given together with If-Match")
    if if_match.strip() == "*":
        return Precondition(exists=True)
    if len(if_match) > MAX_HEADER_LENGTH or not _TAGS.fullmatch(if_match):
        raise _invalid("If-Match", 'must be * or entity tags such as "3", in quotes, with commas between them')
    return Precondition(versions=frozenset(int(tag) for tag in _OURS.findall(if_match)))


def _invalid(header: str, detail: str) -> Rejected:
    return Rejected("invalid", "the header fields are not valid", faults=(Fault(detail, field=header),))

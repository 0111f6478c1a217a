"""`ETag`, `If-Match` and `If-None-Match`: nobody overwrites a change that he has not seen.

A tag is made of when a thing was made and how often it has been changed, so one that was deleted and made again never
has the tag of its predecessor. A condition is checked where the row is locked for the change.
"""

from __future__ import annotations

import datetime as dt
import re
from typing import Annotated, Any, Final, Protocol, Self

import msgspec
from litestar.params import HeaderParameter

from iotplatform.domain.timestamps import to_microseconds
from iotplatform.errors import Fault, Rejected

IfMatch = Annotated[
    str | None,
    HeaderParameter(name="If-Match", description="only if this is still its ETag; `*`: only if it exists"),
]
IfNoneMatch = Annotated[
    str | None, HeaderParameter(name="If-None-Match", description="`*`: only if it does not exist yet")
]

_TAGS: Final = re.compile(r'\s*(?:W/)?"[\x21\x23-\x7e]*"\s*(?:,\s*(?:W/)?"[\x21\x23-\x7e]*"\s*)*')
# A weak tag never matches strongly, and what is changed must be the same to the byte.
_STRONG_TAG: Final = re.compile(r'(W/)?("[\x21\x23-\x7e]*")')


class _Versioned(Protocol):
    @property
    def created_at(self) -> Any: ...

    @property
    def version(self) -> Any: ...


def etag(created_at: dt.datetime, version: int) -> str:
    return f'"{to_microseconds(created_at):x}.{version}"'


class Condition(msgspec.Struct, frozen=True):
    """`tags` None: whatever it is now."""

    tags: frozenset[str] | None = None
    exists: bool | None = None

    @classmethod
    def of(cls, if_match: str | None, if_none_match: str | None = None) -> Self:
        """What the headers ask for.

        Raises:
            Rejected: one of them can't be understood.
        """
        if if_none_match is not None:
            if if_none_match.strip() != "*":
                raise _invalid("If-None-Match", "must be *, which says that nothing of this id exists yet")
            if if_match is not None:
                raise _invalid("If-None-Match", "can't be together with If-Match")
            return cls(exists=False)
        if if_match is None:
            return cls()
        if if_match.strip() == "*":
            return cls(exists=True)
        if not _TAGS.fullmatch(if_match):
            raise _invalid("If-Match", 'must be the ETag of an earlier answer with its quotes, such as "5f.1", or *')
        return cls(tags=frozenset(tag for weak, tag in _STRONG_TAG.findall(if_match) if not weak), exists=True)

    def check_row(self, row: _Versioned | None) -> None:
        """`check` for a row that is locked."""
        self.check(None if row is None else etag(row.created_at, row.version))

    def check(self, current: str | None) -> None:
        """Whether a thing with this tag may be changed; None: there is none.

        Raises:
            Rejected: it may not (precondition_failed).
        """
        if self.exists and current is None:
            raise Rejected("precondition_failed", "there is nothing of this id to be changed")
        if self.exists is False and current is not None:
            raise Rejected("precondition_failed", "there is something of this id already")
        if self.tags is not None and current not in self.tags:
            raise Rejected(
                "precondition_failed", f"it has been changed meanwhile, and its ETag is {current}: read it again"
            )


def _invalid(header: str, detail: str) -> Rejected:
    return Rejected("invalid", "the headers are not valid", faults=(Fault(detail, field=header),))

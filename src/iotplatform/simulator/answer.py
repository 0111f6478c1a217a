"""What the platform answered, and what follows from it."""

from __future__ import annotations

import email.utils
from datetime import UTC, datetime
from http import HTTPStatus
from typing import Final

import msgspec

from iotplatform.errors import Fault

_DEFAULT_WAIT_S: Final = 1.0
# "At once" from a server in trouble must not become a busy loop here.
_SHORTEST_WAIT_S: Final = 0.05
_SHOWN_FAULTS: Final = 3
_SHOWN_CHARACTERS: Final = 300

# 502 and 504 come from a proxy in front, which can't know how far the request got.
_TEMPORARY: Final = frozenset({429, 502, 503, 504})
_IN_DOUBT: Final = frozenset({502, 504})


class _Problem(msgspec.Struct):
    """RFC 9457, as far as a person needs it."""

    title: str = ""
    detail: str = ""
    errors: list[Fault] = []


class _Accepted(msgspec.Struct):
    accepted: int


class Answer(msgspec.Struct, frozen=True):
    """A status, a body, and the header that says when to come back."""

    status: int
    body: bytes
    retry_after: str | None = None

    @property
    def temporary(self) -> bool:
        """Whether the same request may succeed later."""
        return self.status in _TEMPORARY

    @property
    def outcome_unknown(self) -> bool:
        """Whether the request may have been carried out although it was refused."""
        detail = self._problem().detail.lower()
        return self.status in _IN_DOUBT or (self.temporary and "outcome" in detail and "unknown" in detail)

    @property
    def wait_s(self) -> float:
        """Seconds to wait before the next try: `Retry-After` as a number or as an HTTP date."""
        if self.retry_after is None:
            return _DEFAULT_WAIT_S
        try:
            return max(_SHORTEST_WAIT_S, float(self.retry_after))
        except ValueError:
            pass
        try:
            at = email.utils.parsedate_to_datetime(self.retry_after)
        except ValueError:
            return _DEFAULT_WAIT_S
        at = at if at.tzinfo else at.replace(tzinfo=UTC)
        return max(_SHORTEST_WAIT_S, (at - datetime.now(UTC)).total_seconds())

    def accepted(self) -> int | None:
        """How many readings were accepted; None when this is not the answer of `/ingest`."""
        try:
            return msgspec.json.decode(self.body, type=_Accepted).accepted
        except msgspec.DecodeError:
            return None

    def describe(self) -> str:
        """One line: the status, the problem's detail, its first errors."""
        problem = self._problem()
        said = problem.detail or problem.title or self.body.decode(errors="replace")
        # Somebody else's web server may answer with a page; a line must stay a line.
        said = " ".join(said.split())[:_SHOWN_CHARACTERS]
        line = f"{self.status} {_phrase(self.status)}".rstrip() + (f": {said}" if said else "")
        if problem.errors:
            shown = "; ".join(_describe_fault(fault) for fault in problem.errors[:_SHOWN_FAULTS])
            more = len(problem.errors) - _SHOWN_FAULTS
            line += f" ({shown}{f'; and {more} more' if more > 0 else ''})"
        return line

    def _problem(self) -> _Problem:
        try:
            return msgspec.json.decode(self.body, type=_Problem)
        except msgspec.DecodeError:
            return _Problem()


def _phrase(status: int) -> str:
    try:
        return HTTPStatus(status).phrase
    except ValueError:
        return ""


def _describe_fault(fault: Fault) -> str:
    where = [] if fault.index is None else [f"reading {fault.index} of the batch"]
    where += [] if fault.field is None else [fault.field]
    detail = " ".join(fault.detail.split())[:_SHOWN_CHARACTERS]
    return f"{', '.join(where)}: {detail}" if where else detail

"""Every error that the platform raises on purpose.

PlatformError
├── ConfigError            the operator's settings are wrong; the process ends with exit code 78
├── Rejected               the caller's fault: trying the same again changes nothing
│   └── kind               malformed, invalid, unauthenticated, forbidden, not_found, stale, conflict, too_large,
│                          unsupported_media, over_quota, misdirected
└── Unavailable            nobody's fault: try again after `retry_after_s`
    └── outcome_unknown    a publish was under way when the answer was due; the reading may have been stored

Anything else that escapes is a bug. An error carries a kind, never a status code: each edge (HTTP, consumers) owns one
table from kinds to its own answers.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final, Literal

import msgspec

Kind = Literal[
    "malformed",
    "invalid",
    "unauthenticated",
    "forbidden",
    "not_found",
    "stale",
    "conflict",
    "too_large",
    "unsupported_media",
    "over_quota",
    "misdirected",
]


NO_HINTS: Final[Mapping[str, str]] = MappingProxyType({})


class Fault(msgspec.Struct, frozen=True, omit_defaults=True):
    """One thing that is wrong with a request: which reading (`index`, from 0), which `field`, and what is wrong."""

    detail: str
    index: int | None = None
    field: str | None = None


class PlatformError(Exception):
    """The root. Its message is one sentence for the person who has to act on it."""


class ConfigError(PlatformError):
    """A setting is wrong or what it names is missing. The message names the setting and says what to do."""


class Rejected(PlatformError):
    """The caller asked for something that can't be done, and it won't be done by trying again.

    `hints` are what an answer over HTTP says beside that, in fields of its head.
    """

    def __init__(
        self,
        kind: Kind,
        detail: str,
        *,
        faults: tuple[Fault, ...] = (),
        retry_after_s: float | None = None,
        hints: Mapping[str, str] = NO_HINTS,
    ) -> None:
        super().__init__(detail)
        self.kind = kind
        self.detail = detail
        self.faults = faults
        self.retry_after_s = retry_after_s
        self.hints = hints


class Unavailable(PlatformError):
    """Something the platform needs is away or full; the same request may succeed after `retry_after_s` seconds."""

    def __init__(self, detail: str, *, retry_after_s: float = 1.0, outcome_unknown: bool = False) -> None:
        super().__init__(detail)
        self.detail = detail
        self.retry_after_s = retry_after_s
        self.outcome_unknown = outcome_unknown

"""What an examination has found: one line each, and what to do about it."""

from __future__ import annotations

from typing import Final, Literal

import msgspec

State = Literal["ok", "warning", "problem"]
MAX_SKEW_S: Final = 2.0


class Finding(msgspec.Struct, frozen=True):
    """`what` was looked at; `advice` says what to do, when there is anything to do."""

    state: State
    what: str
    detail: str
    advice: str = ""


def ok(what: str, detail: str) -> Finding:
    return Finding("ok", what, detail)


def warning(what: str, detail: str, advice: str) -> Finding:
    return Finding("warning", what, detail, advice)


def problem(what: str, detail: str, advice: str) -> Finding:
    return Finding("problem", what, detail, advice)


def skew(what: str, theirs_s: float, ours_s: float) -> Finding:
    """Tokens, timestamps and the silence of series are compared across machines."""
    apart = theirs_s - ours_s
    if abs(apart) > MAX_SKEW_S:
        direction = "ahead of" if apart > 0 else "behind"
        return problem(what, f"its clock is {abs(apart):.1f} s {direction} this machine's", "synchronise both (NTP)")
    return ok(what, f"its clock is within {MAX_SKEW_S:g} s of this machine's")

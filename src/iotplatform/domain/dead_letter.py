"""A letter for what was accepted and can't be used: the reason, and the data itself."""

from __future__ import annotations

import base64
from typing import Literal

import msgspec

Reason = Literal["undecodable", "invalid", "unstorable", "unevaluable", "intake_full"]
Encoding = Literal["json", "base64"]


class DeadLetter(msgspec.Struct, frozen=True):
    """`readings` is how many accepted readings it stands for; `payload` is text, encoded as `encoding` says."""

    id: str
    role: str
    reason: Reason
    detail: str
    device_id: str | None
    received_at: int
    readings: int
    payload: str
    encoding: Encoding


class LetterFilter(msgspec.Struct, frozen=True):
    """Which letters to list; what is absent holds for all. Times are those of `received_at`, [since, until)."""

    role: str | None = None
    reason: Reason | None = None
    device_ids: tuple[str, ...] = ()
    since: int | None = None
    until: int | None = None

    def matches(self, letter: DeadLetter) -> bool:
        return (
            self.role in {None, letter.role}
            and self.reason in {None, letter.reason}
            and (not self.device_ids or letter.device_id in self.device_ids)
            and (self.since is None or letter.received_at >= self.since)
            and (self.until is None or letter.received_at < self.until)
        )


def encode_payload(payload: bytes) -> str:
    """Bytes that may be no text, for a letter with the encoding base64."""
    return base64.b64encode(payload).decode()

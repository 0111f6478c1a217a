"""A letter for what was accepted and can't be used: the reason, and the data itself."""

from __future__ import annotations

import base64
from typing import Literal

import msgspec

Reason = Literal["undecodable", "unstorable", "unevaluable"]
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


def encode_payload(payload: bytes) -> str:
    """Bytes that may be no text, for a letter with the encoding base64."""
    return base64.b64encode(payload).decode()

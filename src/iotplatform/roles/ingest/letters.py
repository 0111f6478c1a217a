"""Letters of the door: for messages of devices that have had their acknowledgement before they were looked at."""

from __future__ import annotations

from iotplatform.domain.dead_letter import DeadLetter, Reason, encode_payload
from iotplatform.errors import Rejected
from iotplatform.roles.ingest.message import Topic

_FULL = "the organization's stream is full, and too many of its messages wait already"
MAX_FAULTS = 5


def message_letter(letter_id: str, topic: Topic, body: bytes, received_at: int, error: Rejected) -> DeadLetter:
    """For a message that can't be used; it says what is wrong, and where it was published."""
    faults = [
        f"{'' if fault.index is None else f'reading {fault.index}: '}{fault.field or 'the body'} {fault.detail}"
        for fault in error.faults[:MAX_FAULTS]
    ]
    detail = f"{topic.name}: {error.detail}" + (f" ({'; '.join(faults)})" if faults else "")
    return _letter(letter_id, topic, body, received_at, "undecodable", detail)


def full_letter(letter_id: str, topic: Topic, body: bytes, received_at: int) -> DeadLetter:
    return _letter(letter_id, topic, body, received_at, "intake_full", f"{topic.name}: {_FULL}")


def _letter(letter_id: str, topic: Topic, body: bytes, received_at: int, reason: Reason, detail: str) -> DeadLetter:
    text: str | None
    try:
        text = body.decode()
    except UnicodeDecodeError:
        text = None
    return DeadLetter(
        id=letter_id,
        role="ingest",
        reason=reason,
        detail=detail,
        device_id=topic.device_id,
        received_at=received_at,
        # None of its readings was accepted yet.
        readings=0,
        payload=encode_payload(body) if text is None else text,
        encoding="base64" if text is None else "json",
    )

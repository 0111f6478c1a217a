"""Letters of the door: for messages of devices that have had their acknowledgement before they were looked at."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable
from typing import Final

import msgspec

from iotplatform.domain.dead_letter import DeadLetter, Reason, encode_payload
from iotplatform.domain.payloads.admission import Bad
from iotplatform.errors import Fault, Rejected
from iotplatform.roles.ingest.message import Topic

MAX_FAULTS: Final = 5
_FULL: Final = "the organization's stream is full, and too many of its messages wait already"


def message_letter(letter_id: str, topic: Topic, body: bytes, received_at: int, error: Rejected) -> DeadLetter:
    """For a message of which nothing can be used; it says what is wrong, and where it was published."""
    return _letter(letter_id, topic, body, received_at, "undecodable", _detail(topic, error.detail, error.faults))


def bad_letter(letter_id: str, topic: Topic, body: bytes, received_at: int, bad: list[Bad]) -> DeadLetter:
    """For what is bad in a message whose other readings are stored."""
    detail = _detail(topic, "readings that can't be accepted", [fault for some in bad for fault in some.faults])
    sources = [some.source for some in bad]
    if sources == [body]:
        return _letter(letter_id, topic, body, received_at, "undecodable", detail)
    try:
        payload = msgspec.json.encode(sources)
    except (TypeError, ValueError):
        payload = body
    return _letter(letter_id, topic, payload, received_at, "undecodable", detail)


def full_letter(letter_id: str, topic: Topic, body: bytes, received_at: int) -> DeadLetter:
    return _letter(letter_id, topic, body, received_at, "intake_full", f"{topic.name}: {_FULL}")


def _detail(topic: Topic, what: str, faults: Iterable[Fault]) -> str:
    all_faults = list(faults)
    told = [
        f"{'' if fault.index is None else f'reading {fault.index}: '}{fault.field or 'the body'} {fault.detail}"
        for fault in all_faults[:MAX_FAULTS]
    ]
    more = f"; and {len(all_faults) - MAX_FAULTS} more" if len(all_faults) > MAX_FAULTS else ""
    return f"{topic.name}: {what}" + (f" ({'; '.join(told)}{more})" if told else "")


def _letter(letter_id: str, topic: Topic, body: bytes, received_at: int, reason: Reason, detail: str) -> DeadLetter:
    text: str | None = None
    # What only a mapping makes readings of must not look like readings of the gateway.
    if topic.kind != "other":
        with contextlib.suppress(UnicodeDecodeError):
            text = body.decode()
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

"""Dead letters of the door: what a sender asked to set aside rather than have its request refused."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Sequence
from typing import Final

import msgspec
import structlog

from iotplatform.adapters.nats.dead_letters import DeadLetters
from iotplatform.domain.dead_letter import DeadLetter, Encoding, encode_payload
from iotplatform.domain.organization import Organization
from iotplatform.domain.payloads.admission import Bad

log = structlog.get_logger(role="ingest")

# Of one request. What is bad beyond that shares letters.
MAX_LETTERS: Final = 100
MAX_DETAILS: Final = 5


class Asides:
    """What is set aside was never accepted, so its letters stand for no reading of the ledger."""

    def __init__(self, dead_letters: DeadLetters) -> None:
        self._dead_letters = dead_letters

    async def set_aside(
        self, organization: Organization, bad: Sequence[Bad], arrived_at: int, *, as_json: bool, name: str | None = None
    ) -> None:
        """Returns when the letters are stored. With the same `name` they are the same letters.

        `as_json`: the elements are in a shape of JSON, so that a letter can be replayed.

        Raises:
            Unavailable: some may be stored.
        """
        name = name or secrets.token_hex(12)
        size = -(-len(bad) // MAX_LETTERS)
        groups = [bad[start : start + size] for start in range(0, len(bad), size)]
        letters = [
            _letter(f"ingest-{name}-{number}", group, arrived_at, as_json=as_json)
            for number, group in enumerate(groups)
        ]
        # The first one may have to make the stream; the others would overtake each other meanwhile.
        for some in (letters[:1], letters[1:]):
            await asyncio.gather(
                *(self._dead_letters.put(organization.id, organization.epoch, "ingest", letter) for letter in some)
            )
        log.warning("ingest.dead_lettered", organization=organization.id, readings=len(bad), detail=letters[0].detail)


def _letter(letter_id: str, group: Sequence[Bad], arrived_at: int, *, as_json: bool) -> DeadLetter:
    faults = [fault for bad in group for fault in bad.faults]
    detail = "; ".join(
        f"{fault.field}: {fault.detail}" if fault.field else fault.detail for fault in faults[:MAX_DETAILS]
    )
    if len(faults) > MAX_DETAILS:
        detail += f" (and {len(faults) - MAX_DETAILS} more)"
    sources = [bad.source for bad in group]
    devices = {bad.device_id for bad in group}
    payload, encoding = _payload(sources[0] if len(sources) == 1 else sources, as_json=as_json)
    return DeadLetter(
        id=letter_id,
        role="ingest",
        reason="undecodable" if any(bad.is_malformed for bad in group) else "invalid",
        detail=detail,
        device_id=devices.pop() if len(devices) == 1 else None,
        received_at=arrived_at,
        readings=0,
        payload=payload,
        encoding=encoding,
    )


def _payload(source: object, *, as_json: bool) -> tuple[str, Encoding]:
    if isinstance(source, bytes):
        return encode_payload(source), "base64"
    try:
        encoded = source.encode() if isinstance(source, str) and not as_json else msgspec.json.encode(source)
    except (TypeError, ValueError, OverflowError):
        # Numbers and keys that only other encodings than JSON have.
        encoded, as_json = repr(source).encode("utf-8", "backslashreplace"), False
    return (encoded.decode(), "json") if as_json else (encode_payload(encoded), "base64")

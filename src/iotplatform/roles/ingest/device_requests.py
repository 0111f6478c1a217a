"""Requests of NATS clients to `intake.{organization}.{device}`, answered as JetStream answers a publish.

So the ordinary `js.publish` of any client works as it is, and returns once the readings are stored.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any, Final

import msgspec
import structlog

from iotplatform.adapters.nats.device_messages import DeviceMessages
from iotplatform.adapters.nats.headers import MSG_ID
from iotplatform.adapters.nats.publisher import Ack
from iotplatform.domain.identifiers import identifier_fault
from iotplatform.domain.organization import Organization
from iotplatform.domain.payloads.admission import Sender
from iotplatform.domain.payloads.formats import BY_MEDIA_TYPE, JSON, decode
from iotplatform.errors import PlatformError, Rejected, Unavailable
from iotplatform.roles.ingest.door_parts import DoorParts
from iotplatform.roles.ingest.idempotency import IdempotencyKey
from iotplatform.roles.ingest.lanes import Lanes
from iotplatform.roles.ingest.large import aside
from iotplatform.roles.ingest.message import MAX_BYTES
from iotplatform.roles.ingest.receiving import Receiving, overloaded
from iotplatform.roles.ingest.request_traces import of_nats, traced
from iotplatform.runtime.clock import now_us
from iotplatform.runtime.tasks import Tasks

log = structlog.get_logger(role="ingest")

CONTENT_TYPE: Final = "Content-Type"
# Everybody's answers go to inboxes that begin alike, so what stands in one tells nothing of whose it is.
STREAM: Final = "INTAKE"
_CODES: Final = {
    "malformed": 400, "unauthenticated": 401, "forbidden": 403, "not_found": 404, "too_large": 413,
    "unsupported_media": 415, "invalid": 422, "over_quota": 429,
}  # fmt: skip
MAX_FAULTS: Final = 5


class DeviceRequests:
    def __init__(self, lanes: Lanes, parts: DoorParts, messages: DeviceMessages, receiving: Receiving) -> None:
        self._lanes = lanes
        self._parts = parts
        self._messages = messages
        self._receiving = receiving
        self._tasks = Tasks("ingest.requests")

    async def wait(self) -> None:
        await self._tasks.wait()

    async def stop(self) -> None:
        await self._tasks.stop()

    def take(self, subject: str, body: bytes, headers: Mapping[str, str], reply: str) -> None:
        """Never raises. Who wants no answer gets none, and the readings are stored all the same."""
        self._tasks.spawn(self._answer(subject, body, headers, reply), "request")

    async def _answer(self, subject: str, body: bytes, headers: Mapping[str, str], reply: str) -> None:
        started = time.perf_counter()
        reserved = self._receiving.reserve(len(body), 0)
        try:
            if not reserved:
                raise overloaded()
            ack = await self._follow(subject, body, headers)
        except PlatformError as error:
            answer: dict[str, Any] = {"error": _problem(error)}
        except Exception:
            # A fault of ours: one device's message ends nobody else's.
            log.exception("ingest.failed", subject=subject)
            answer = {"error": {"code": 500, "description": "the message could not be handled"}}
        else:
            answer = {"stream": STREAM, "seq": ack.seq, **({"duplicate": True} if ack.duplicate else {})}
            self._parts.metrics.ingest_request.record(time.perf_counter() - started)
        finally:
            if reserved:
                self._receiving.release(len(body))
        if reply:
            await self._messages.answer(reply, msgspec.json.encode(answer))

    async def _follow(self, subject: str, body: bytes, headers: Mapping[str, str]) -> Ack:
        if self._parts.metrics.tracer is None:
            return await self._store(subject, body, headers)
        with traced(self._parts.metrics.tracer, of_nats(headers), "nats"):
            return await self._store(subject, body, headers)

    async def _store(self, subject: str, body: bytes, headers: Mapping[str, str]) -> Ack:
        _, organization_id, device_id = subject.split(".")
        if identifier_fault(organization_id) or identifier_fault(device_id):
            raise Rejected("invalid", "the subject must be intake.{organization}.{device}")
        organization = await self._parts.directory.organization(organization_id)
        if organization is None:
            raise Rejected("not_found", "there is no such organization")
        try:
            return await self._admit(organization, device_id, body, headers)
        except PlatformError as error:
            uncertain = isinstance(error, Unavailable) and error.outcome_unknown
            if not uncertain:
                self._parts.refuse(organization, error.kind if isinstance(error, Rejected) else "unavailable")
            raise

    async def _admit(self, organization: Organization, device_id: str, body: bytes, headers: Mapping[str, str]) -> Ack:
        arrived_at = now_us()
        if len(body) > MAX_BYTES:
            raise Rejected("too_large", f"the body is larger than {MAX_BYTES} bytes: send fewer readings in a request")
        media_type = headers.get(CONTENT_TYPE, "").partition(";")[0].strip().lower()
        known = BY_MEDIA_TYPE.get(media_type) if media_type else JSON
        if known is None:
            raise Rejected("unsupported_media", "the Content-Type is none that is known here")
        sender = Sender(organization.id, device_id)
        found = await aside(body, lambda: decode(known, body, arrived_at=arrived_at, sender=sender))
        found.require_all()
        message_id = headers.get(MSG_ID)
        key = (
            None
            if message_id is None
            else IdempotencyKey.of(message_id.encode("utf-8", "surrogatepass"), body, device_id)
        )
        if self._parts.admission.limited:
            await self._parts.admission.take(organization, found.readings)
        ack = await self._lanes.store(organization, "http", found.readings, arrived_at, key=key)
        self._parts.registry.learn(organization, found, is_anonymous=True)
        return ack


def _problem(error: PlatformError) -> dict[str, Any]:
    if isinstance(error, Rejected):
        faults = "; ".join(
            f"{'' if fault.index is None else f'reading {fault.index}: '}{fault.field or 'the body'} {fault.detail}"
            for fault in error.faults[:MAX_FAULTS]
        )
        return {"code": _CODES.get(error.kind, 400), "description": f"{error.detail}{f' ({faults})' if faults else ''}"}
    return {"code": 503, "description": str(error)}

"""`POST /ingest`: the hot path, an ASGI handler of its own inside the Litestar application."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Final

import msgspec
from litestar.exceptions import HTTPException, MethodNotAllowedException
from litestar.types import Receive, Scope, Send

from iotplatform.domain.payloads.admission import Decoded, Sender
from iotplatform.domain.payloads.formats import JSON, Format, decode
from iotplatform.errors import Fault, PlatformError, Rejected, Unavailable
from iotplatform.observability.instruments import QueueState
from iotplatform.observability.metrics import Metrics
from iotplatform.roles.ingest.acceptance import Acceptance, Wish
from iotplatform.roles.ingest.admission import WAIT
from iotplatform.roles.ingest.lanes import no_room
from iotplatform.roles.ingest.large import aside
from iotplatform.roles.ingest.payload import blame, count_at_a_glance, decode_plainly, named_early
from iotplatform.roles.ingest.receiving import Receiving, check_declared_length, read_body, unpack
from iotplatform.roles.ingest.request_traces import of_http, traced
from iotplatform.roles.ingest.senders import Senders, address_of, authorization_of
from iotplatform.roles.ingest.wishes import LENIENT, Query, format_of, is_lenient, key_of
from iotplatform.runtime.clock import now_us

# A single reading is decoded as fast as it is looked at.
WORTH_A_GLANCE: Final = 4_096
REFUSED_AFTER_S: Final = 0.5
MAX_RECEIVING_BYTES: Final = 128 << 20
_ACCEPTED: Final = (b"*/*", b"application/json", b"application/*", b"application/problem+json")

Handler = Callable[[Scope, Receive, Send], Awaitable[None]]
Answer = Callable[[int, PlatformError | None], None]


class Result(msgspec.Struct, frozen=True, omit_defaults=True):
    """`errors` says what was set aside, for a sender that wished it so."""

    status: str
    accepted: int
    errors: tuple[Fault, ...] | None = None


class IngestEndpoint:
    """Answers 202 once the stream has stored every reading of the request."""

    def __init__(self, acceptance: Acceptance, senders: Senders, metrics: Metrics) -> None:
        self._acceptance = acceptance
        self._lanes = acceptance.lanes
        self._admission = acceptance.admission
        self._directory = acceptance.directory
        self._registry = acceptance.registry
        self.senders = senders
        self._metrics = metrics
        self.tracer = metrics.tracer
        self.receiving = Receiving(MAX_RECEIVING_BYTES)
        metrics.watch_queue("receiving_bytes", lambda: QueueState(self.receiving.held, self.receiving.most))

    def begin(self, body: bytes, arrived_at: int, answer: Answer, sender: Sender | None = None) -> bool:
        """The short way of a request from a known sender, without special headers, whose body is JSON and has no fault.

        `answer` is called once with how many readings were accepted and an error or None, perhaps before this returns.
        False, and nothing done, when the request has to go the ordinary way by `__call__`.
        """
        if len(body) > WORTH_A_GLANCE and (refused := self._refuse_unread(body, sender)) is not None:
            # At once it would be sent again at once; the answer says to wait a second.
            asyncio.get_running_loop().call_later(REFUSED_AFTER_S, answer, 0, refused)
            return True
        admitted = decode_plainly(body, arrived_at=arrived_at, sender=sender)
        organization = self._directory.known_organization(admitted.organization_id) if admitted else None
        if admitted is None or organization is None:
            return False
        started = time.perf_counter()
        count = len(admitted.readings)

        def stored(error: PlatformError | None) -> None:
            if error is None:
                self._metrics.ingest_request.record(time.perf_counter() - started)
                self._registry.see(organization.epoch, admitted.readings)
            else:
                self._metrics.readings_refused.add(1, reason_of(error))
                if not (isinstance(error, Unavailable) and error.outcome_unknown):
                    self._acceptance.counters.add(organization.epoch, "refused", count)
            answer(count, error)

        if self._admission.limited:
            # What may belong to several partitions must not be paid for here, and then again on the ordinary way.
            verdict = (
                WAIT
                if count > 1 < organization.partitions
                else self._admission.try_take(organization, admitted.readings)
            )
            if isinstance(verdict, Rejected):
                stored(verdict)
                return True
            if verdict is not None:
                return False
        try:
            return self._lanes.submit(organization, "http", admitted.readings, arrived_at, stored)
        except PlatformError as error:
            stored(error)
            return True

    def _refuse_unread(self, body: bytes, sender: Sender | None) -> PlatformError | None:
        """Under far more load than can be stored, decoding what is refused anyway would take all the time there is."""
        organization_id = sender.organization_id if sender is not None else named_early(body)
        organization = self._directory.known_organization(organization_id) if organization_id is not None else None
        if organization is None or not self._lanes.are_full(organization, "http"):
            return None
        error = no_room()
        self._metrics.readings_refused.add(1, reason_of(error))
        self._acceptance.counters.add(organization.epoch, "refused", count_at_a_glance(body))
        return error

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if self.tracer is None:
            await self._answer(scope, receive, send)
            return
        with traced(self.tracer, of_http(dict(scope["headers"])), "http", owed=True):
            await self._answer(scope, receive, send)

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        started = time.perf_counter()
        arrived_at = now_us()
        try:
            result = await self._accept(scope, receive, arrived_at)
        except PlatformError as error:
            self._metrics.readings_refused.add(1, reason_of(error))
            raise
        except HTTPException as error:
            self._metrics.readings_refused.add(1, f"http_{error.status_code}")
            raise
        body = msgspec.json.encode(result)
        headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(body))]
        if result.errors is not None:
            headers.append((b"preference-applied", LENIENT.encode()))
        await send({"type": "http.response.start", "status": 202, "headers": headers})
        await send({"type": "http.response.body", "body": body, "more_body": False})
        self._metrics.ingest_request.record(time.perf_counter() - started)

    async def _accept(self, scope: Scope, receive: Receive, arrived_at: int) -> Result:
        if scope["method"] != "POST":  # type: ignore[typeddict-item]
            raise MethodNotAllowedException(headers={"Allow": "POST"})
        headers = dict(scope["headers"])
        _check_accept(headers.get(b"accept", b""))
        sender = await self.senders.find(authorization_of(scope["headers"]), address=address_of(scope))
        check_declared_length(headers.get(b"content-length", b""))
        known = format_of(headers.get(b"content-type", b"application/json"))
        encoding = headers.get(b"content-encoding", b"")
        body = unpack(await read_body(receive, self.receiving), encoding)
        try:
            return await self._store(body, known, scope["query_string"], headers, sender, arrived_at)
        except PlatformError as error:
            named, readings = blame(body) if known is JSON else (None, 1)
            await self._acceptance.count_refused(sender.organization_id if sender else named, readings, error)
            raise

    async def _store(
        self,
        body: bytes,
        known: Format,
        query_string: bytes,
        headers: dict[bytes, bytes],
        sender: Sender | None,
        arrived_at: int,
    ) -> Result:
        decoded = decode_plainly_or_none(body, arrived_at, sender) if known is JSON and not query_string else None
        query = Query.of(query_string)
        query.check_sender(sender)
        if decoded is None:
            defaults = query.defaults
            decoded = await aside(
                body, lambda: decode(known, body, arrived_at=arrived_at, sender=sender, defaults=defaults)
            )
        wish = Wish(
            source="store" if query.is_store_only else "http",
            is_lenient=is_lenient(headers.get(b"prefer", b"")),
            as_json=known.is_json_shaped,
            key=key_of(headers.get(b"idempotency-key"), body, known, query, sender),
            is_anonymous=sender is None,
        )
        errors = await self._acceptance.accept(decoded, arrived_at, wish)
        return Result("accepted", len(decoded.readings), errors if wish.is_lenient else None)


def decode_plainly_or_none(body: bytes, arrived_at: int, sender: Sender | None) -> Decoded | None:
    admitted = decode_plainly(body, arrived_at=arrived_at, sender=sender)
    return None if admitted is None else Decoded(admitted.organization_id, admitted.readings)


def _check_accept(accept: bytes) -> None:
    if accept and not any(kind in accept for kind in _ACCEPTED):
        raise HTTPException(status_code=406, detail="answers are application/json")


def reason_of(error: PlatformError) -> str:
    if isinstance(error, Rejected):
        return error.kind
    return "outcome_unknown" if isinstance(error, Unavailable) and error.outcome_unknown else "unavailable"

"""`POST /ingest`: the hot path, an ASGI handler of its own inside the Litestar application."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from typing import Final

from litestar.exceptions import HTTPException, MethodNotAllowedException
from litestar.types import Receive, Scope, Send

from iotplatform.adapters.postgres.directory import Directory
from iotplatform.adapters.redis.counters import Counters
from iotplatform.adapters.tokens.verifier import Verifier
from iotplatform.errors import PlatformError, Rejected, Unavailable
from iotplatform.observability.metrics import Metrics
from iotplatform.roles.ingest.admission import WAIT, Admission
from iotplatform.roles.ingest.idempotency import IdempotencyKey
from iotplatform.roles.ingest.lanes import Lanes
from iotplatform.roles.ingest.payload import Sender, blame, decode, decode_plainly
from iotplatform.roles.ingest.receiving import Receiving
from iotplatform.runtime.clock import now_us

MAX_BODY_BYTES: Final = 1 << 20
MAX_RECEIVING_BYTES: Final = 128 << 20
_TOO_LARGE: Final = f"the body is larger than {MAX_BODY_BYTES} bytes: send fewer readings in a request"
_JSON: Final = frozenset({b"application/json", b"text/json"})
_ACCEPTED: Final = (b"*/*", b"application/json", b"application/*", b"application/problem+json")

Handler = Callable[[Scope, Receive, Send], Awaitable[None]]
Answer = Callable[[int, PlatformError | None], None]


class IngestEndpoint:
    """Answers 202 once the stream has stored every reading of the request."""

    def __init__(
        self,
        lanes: Lanes,
        admission: Admission,
        directory: Directory,
        verifier: Verifier,
        counters: Counters,
        metrics: Metrics,
    ) -> None:
        self._lanes = lanes
        self._admission = admission
        self._directory = directory
        self._verifier = verifier
        self._counters = counters
        self._metrics = metrics
        self.receiving = Receiving(MAX_RECEIVING_BYTES)

    def begin(self, body: bytes, arrived_at: int, answer: Answer) -> bool:
        """The short way of a request without credentials or special headers whose body is JSON and has no fault.

        `answer` is called once with how many readings were accepted and an error or None, perhaps before this returns.
        False, and nothing done, when the request has to go the ordinary way by `__call__`.
        """
        admitted = decode_plainly(body, arrived_at=arrived_at)
        organization = self._directory.known_organization(admitted.organization_id) if admitted else None
        if admitted is None or organization is None:
            return False
        started = time.perf_counter()
        count = len(admitted.readings)

        def stored(error: PlatformError | None) -> None:
            if error is None:
                self._metrics.ingest_request.record(time.perf_counter() - started)
            else:
                self._metrics.readings_refused.add(1, _reason(error))
                if not (isinstance(error, Unavailable) and error.outcome_unknown):
                    self._counters.add(organization.epoch, "refused", count)
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

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        started = time.perf_counter()
        arrived_at = now_us()
        try:
            count = await self._accept(scope, receive, arrived_at)
        except PlatformError as error:
            self._metrics.readings_refused.add(1, _reason(error))
            raise
        except HTTPException as error:
            self._metrics.readings_refused.add(1, f"http_{error.status_code}")
            raise
        body = b'{"status":"accepted","accepted":%d}' % count
        await send(
            {
                "type": "http.response.start",
                "status": 202,
                "headers": [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(body))],
            }
        )
        await send({"type": "http.response.body", "body": body, "more_body": False})
        self._metrics.ingest_request.record(time.perf_counter() - started)

    async def _accept(self, scope: Scope, receive: Receive, arrived_at: int) -> int:
        if scope["method"] != "POST":  # type: ignore[typeddict-item]
            raise MethodNotAllowedException(headers={"Allow": "POST"})
        headers = dict(scope["headers"])
        _check_accept(headers.get(b"accept", b""))
        sender = await self._sender(headers.get(b"authorization", b""))
        _check_declared_length(headers.get(b"content-length", b""))
        _check_media_type(headers)
        body = await self._read_body(receive)
        try:
            return await self._store(body, sender, arrived_at, headers.get(b"idempotency-key"))
        except PlatformError as error:
            if not (isinstance(error, Unavailable) and error.outcome_unknown):
                await self._count_refused(body, sender)
            raise

    async def _read_body(self, receive: Receive) -> bytes:
        chunks: list[bytes] = []
        size = 0
        try:
            while True:
                message = await receive()
                if message["type"] != "http.request":
                    raise Rejected("malformed", "the request ended before its body did")
                chunk: bytes = message["body"]
                if not self.receiving.reserve(len(chunk)):
                    raise overloaded()
                size += len(chunk)
                if size > MAX_BODY_BYTES:
                    raise Rejected("too_large", _TOO_LARGE)
                chunks.append(chunk)
                if not message["more_body"]:
                    return b"".join(chunks) if len(chunks) > 1 else chunk
        finally:
            self.receiving.release(size)

    async def _store(self, body: bytes, sender: Sender | None, arrived_at: int, given_key: bytes | None) -> int:
        admitted = decode(body, arrived_at=arrived_at, sender=sender)
        own_device = (sender.device_id if sender else None) or ""
        key = None if given_key is None else IdempotencyKey.of(given_key, body, own_device)
        organization = await self._directory.organization(admitted.organization_id)
        if organization is None:
            raise Rejected("not_found", f"there is no organization {admitted.organization_id!r}")
        if self._admission.limited:
            await self._admission.take(organization, admitted.readings)
        await self._lanes.store(organization, "http", admitted.readings, arrived_at, key=key)
        return len(admitted.readings)

    async def _count_refused(self, body: bytes, sender: Sender | None) -> None:
        """For the ledger's column of what the door refused, where the organization can be told."""
        organization_id, readings = blame(body)
        if sender is not None:
            organization_id = sender.organization_id
        if organization_id is None:
            return
        try:
            organization = await self._directory.organization(organization_id)
        except Unavailable:
            return
        if organization is not None:
            self._counters.add(organization.epoch, "refused", readings)

    async def _sender(self, authorization: bytes) -> Sender | None:
        if not authorization:
            return None
        scheme, _, token = authorization.decode("latin-1").partition(" ")
        if scheme.lower() != "bearer" or not token.strip():
            raise Rejected("unauthenticated", "the Authorization header must be `Bearer <device token>`")
        claims = await self._verifier.verify(token.strip())
        return Sender(claims.organization_id, claims.device_id)


def _check_accept(accept: bytes) -> None:
    if accept and not any(kind in accept for kind in _ACCEPTED):
        raise HTTPException(status_code=406, detail="answers are application/json")


def _check_declared_length(declared: bytes) -> None:
    if declared.isdigit() and int(declared) > MAX_BODY_BYTES:
        raise Rejected("too_large", _TOO_LARGE)


def _check_media_type(headers: dict[bytes, bytes]) -> None:
    media_type = headers.get(b"content-type", b"application/json").partition(b";")[0].strip().lower()
    if media_type not in _JSON:
        raise Rejected("unsupported_media", "the Content-Type must be application/json")
    if headers.get(b"content-encoding", b"identity").lower() != b"identity":
        raise Rejected("unsupported_media", "compressed bodies are not supported yet: send no Content-Encoding")


def overloaded() -> Unavailable:
    return Unavailable("too many requests are being received; nothing was stored", retry_after_s=1)


def _reason(error: PlatformError) -> str:
    if isinstance(error, Rejected):
        return error.kind
    return "outcome_unknown" if isinstance(error, Unavailable) and error.outcome_unknown else "unavailable"

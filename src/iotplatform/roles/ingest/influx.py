"""What clients of InfluxDB 2 write to: `POST /api/v2/write` with line protocol, answered as they expect it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Final

import msgspec
from litestar import Response, route
from litestar.types import Receive, Scope, Send

from iotplatform import __version__
from iotplatform.domain.payloads.admission import MAX_FAULTS, Decoded, Defaults, Sender, admit
from iotplatform.domain.payloads.line_protocol import PRECISIONS, read_lines
from iotplatform.errors import Fault, Kind, PlatformError, Rejected, Unavailable
from iotplatform.observability.metrics import Metrics
from iotplatform.roles.ingest.acceptance import Acceptance, Wish
from iotplatform.roles.ingest.large import aside
from iotplatform.roles.ingest.receiving import Receiving, check_declared_length, read_body, unpack
from iotplatform.roles.ingest.request_traces import of_http, traced
from iotplatform.roles.ingest.senders import TOKEN, Senders, address_of, authorization_of
from iotplatform.roles.ingest.wishes import parse_query
from iotplatform.runtime.clock import now_us

_PARAMETERS: Final = ("org", "orgID", "bucket", "precision", "mode")
# Their words for what is ours.
_ANSWERS: Final[Mapping[Kind, tuple[int, str]]] = {
    "malformed": (400, "invalid"),
    "invalid": (400, "invalid"),
    "unauthenticated": (401, "unauthorized"),
    "forbidden": (403, "forbidden"),
    "not_found": (404, "not found"),
    "too_large": (413, "request too large"),
    "unsupported_media": (415, "invalid"),
    "over_quota": (429, "too many requests"),
}
_VERSION: Final = {"X-Influxdb-Build": "iotplatform", "X-Influxdb-Version": f"v2-iotplatform-{__version__}"}


class Failure(msgspec.Struct, frozen=True, omit_defaults=True):
    """`errors` says of each line that was left out, counted from 0, what is wrong with it."""

    code: str
    message: str
    errors: tuple[Fault, ...] = ()


class WriteEndpoint:
    """204 once the stream has stored every line; 400 with the good lines stored when some are bad."""

    def __init__(self, acceptance: Acceptance, senders: Senders, receiving: Receiving, metrics: Metrics) -> None:
        self._acceptance = acceptance
        self._senders = senders
        self._receiving = receiving
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            decoded = await self._follow(scope, receive)
        except PlatformError as error:
            status, failure, headers = _describe(error)
            self._metrics.readings_refused.add(1, failure.code.replace(" ", "_"))
            await _answer(send, status, failure, headers)
            return
        if decoded.bad:
            self._metrics.readings_refused.add(1, "partial_write")
            await _answer(send, 400, _partial(decoded), {})
        else:
            await _answer(send, 204, None, {})

    async def _follow(self, scope: Scope, receive: Receive) -> Decoded:
        if self._metrics.tracer is None:
            return await self._accept(scope, receive, now_us())
        with traced(self._metrics.tracer, of_http(dict(scope["headers"])), "line protocol"):
            return await self._accept(scope, receive, now_us())

    async def _accept(self, scope: Scope, receive: Receive, arrived_at: int) -> Decoded:
        if scope["method"] != "POST":  # type: ignore[typeddict-item]
            raise _NotAllowed("method not allowed")
        headers = dict(scope["headers"])
        sender = await self._senders.find(authorization_of(scope["headers"]), TOKEN, address_of(scope))
        given = parse_query(scope["query_string"].decode("latin-1"), _PARAMETERS)
        organization_id = _organization(given, sender)
        check_declared_length(headers.get(b"content-length", b""))
        body = unpack(await read_body(receive, self._receiving), headers.get(b"content-encoding", b""))
        precision, mode = given.get("precision") or "ns", given.get("mode")
        if precision not in PRECISIONS:
            raise Rejected("invalid", f"invalid precision {precision[:20]!r}: use one of {', '.join(PRECISIONS)}")
        if mode not in {None, "store"}:
            raise Rejected("invalid", "invalid mode: must be 'store', or absent")
        refused = 1
        try:
            defaults = Defaults(organization_id)
            decoded = await aside(
                body, lambda: admit(read_lines(body, arrived_at, sender, precision), arrived_at, sender, defaults)
            )
            refused = len(decoded.readings) + len(decoded.bad)
            organization = await self._acceptance.organization(organization_id)
            if decoded.readings:
                wish = Wish(source="store" if mode else "http", is_anonymous=sender is None)
                await self._acceptance.store(organization, decoded, arrived_at, wish)
        except PlatformError as error:
            await self._acceptance.count_refused(organization_id, refused, error)
            raise
        if decoded.bad:
            self._acceptance.counters.add(organization.epoch, "refused", len(decoded.bad))
        return decoded


class _NotAllowed(PlatformError):
    """Another method than POST."""


def _organization(given: Mapping[str, str], sender: Sender | None) -> str:
    organization_id = given.get("org") or given.get("orgID") or (sender.organization_id if sender else "")
    if not organization_id:
        raise Rejected("invalid", "the parameter org is required: the id of an organization")
    if sender is not None and organization_id != sender.organization_id:
        raise Rejected("forbidden", "this credential writes for its own device or organization only")
    return organization_id


def _describe(error: PlatformError) -> tuple[int, Failure, dict[str, str]]:
    match error:
        case Rejected():
            status, code = _ANSWERS.get(error.kind, (400, "invalid"))
            details = "; ".join(fault.detail for fault in error.faults[:3])
            message = f"{error.detail}: {details}" if details else error.detail
            retry = {} if error.retry_after_s is None else {"Retry-After": str(math.ceil(error.retry_after_s))}
            return status, Failure(code, message, error.faults), retry
        case Unavailable():
            return 503, Failure("unavailable", error.detail), {"Retry-After": str(math.ceil(error.retry_after_s))}
        case _:
            return 405, Failure("method not allowed", "use POST"), {"Allow": "POST"}


def _partial(decoded: Decoded) -> Failure:
    """All or some of the lines were left out."""
    first = decoded.bad[0]
    fault = first.faults[0]
    reason = f"{fault.field}: {fault.detail}" if fault.field else fault.detail
    message = f"unable to parse '{str(first.source)[:200]}': {reason}"
    if decoded.readings:
        message = f"partial write: {message} dropped={len(decoded.bad)}"
    faults = tuple(fault for bad in decoded.bad for fault in bad.faults)
    return Failure("invalid", message, faults[:MAX_FAULTS])


async def _answer(send: Send, status: int, failure: Failure | None, headers: dict[str, str]) -> None:
    body = b"" if failure is None else msgspec.json.encode(failure)
    fields = {**_VERSION, **headers}
    if failure is not None:
        fields |= {"Content-Type": "application/json; charset=utf-8", "Content-Length": str(len(body))}
    encoded = [(name.lower().encode(), value.encode()) for name, value in fields.items()]
    await send({"type": "http.response.start", "status": status, "headers": encoded})
    await send({"type": "http.response.body", "body": body, "more_body": False})


@route("/ping", http_method=["GET", "HEAD"], status_code=204, include_in_schema=False)
async def ping() -> Response[None]:
    """For clients of InfluxDB that look whether anybody is there."""
    return Response(None, status_code=204, headers=_VERSION)


@route("/health", http_method=["GET", "HEAD"], include_in_schema=False)
async def health() -> dict[str, Any]:
    """The same, in more words."""
    return {
        "name": "influxdb",
        "message": "iotplatform takes line protocol at /api/v2/write",
        "status": "pass",
        "checks": [],
        "version": f"v2-iotplatform-{__version__}",
        "commit": "iotplatform",
    }

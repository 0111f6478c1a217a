"""From errors to RFC 9457 problem documents: the one table of status codes at the HTTP edges."""

from __future__ import annotations

import math
from collections.abc import Mapping
from http import HTTPStatus
from typing import Any, Final

import msgspec
import structlog
from litestar import Request, Response
from litestar.exceptions import HTTPException, ValidationException
from litestar.params import ParameterKwarg
from litestar.types import ExceptionHandlersMap, Send

from iotplatform.errors import Fault, Kind, Rejected, Unavailable

log = structlog.get_logger()

MEDIA_TYPE: Final = "application/problem+json"

STATUS_BY_KIND: Final[Mapping[Kind, int]] = {
    "malformed": 400,
    "unauthenticated": 401,
    "forbidden": 403,
    "not_found": 404,
    "conflict": 409,
    "stale": 412,
    "too_large": 413,
    "unsupported_media": 415,
    "misdirected": 421,
    "invalid": 422,
    "over_quota": 429,
}
# One type for one thing, also where it was Litestar that noticed it.
_TYPE_BY_STATUS: Final[Mapping[int, str]] = {
    **{status: kind for kind, status in STATUS_BY_KIND.items()},
    405: "method_not_allowed",
    406: "not_acceptable",
    500: "internal",
    503: "unavailable",
}
# In place of Litestar's, which repeat the title.
_DETAILS: Final[Mapping[int, str]] = {
    404: "there is nothing at this path",
    405: "this path does not take this method, but those in the header Allow",
}
_TITLES: Final[Mapping[int, str]] = {413: "Content Too Large", 422: "Unprocessable Content"}


class Problem(msgspec.Struct, frozen=True):
    type: str
    title: str
    status: int
    detail: str
    errors: tuple[Fault, ...] = ()


class ProblemResponse(msgspec.Struct, frozen=True):
    """For an ASGI handler that answers by itself."""

    status: int
    headers: list[tuple[bytes, bytes]]
    body: bytes


def problem_response(error: Exception, parameters: Mapping[str, str] | None = None) -> ProblemResponse:
    """The answer to any exception. One that nobody foresaw is logged here, and its answer tells nothing of it.

    `parameters` are the names that the outside knows for those of a handler's parameters that are called otherwise.
    """
    problem, headers = _describe(error, parameters or {})
    if problem.status == 500:
        log.error("http.failed", exc_info=error)
    elif isinstance(error, Unavailable):
        log.warning("http.unavailable", detail=error.detail, cause=repr(error.__cause__))
    body = msgspec.json.encode(problem)
    fields = {"content-type": MEDIA_TYPE, "content-length": str(len(body)), **headers}
    return ProblemResponse(problem.status, [(name.encode(), value.encode()) for name, value in fields.items()], body)


def _describe(error: Exception, parameters: Mapping[str, str]) -> tuple[Problem, dict[str, str]]:
    headers: dict[str, str] = {}
    match error:
        case Rejected():
            status = STATUS_BY_KIND[error.kind]
            if status == 401:
                headers["www-authenticate"] = "Bearer"
            headers |= error.hints
            if error.retry_after_s is not None:
                headers["retry-after"] = _whole_seconds(error.retry_after_s)
            return _problem(status, error.detail, error.faults), headers
        case Unavailable():
            headers["retry-after"] = _whole_seconds(error.retry_after_s)
            return _problem(503, error.detail), headers
        case ValidationException():
            return _problem(422, "the request is not valid", _faults(error, parameters)), headers
        case HTTPException() if error.status_code < 500:
            headers = {name.lower(): value for name, value in (error.headers or {}).items()}
            return _problem(error.status_code, _DETAILS.get(error.status_code, error.detail)), headers
        case _:
            return _problem(500, "something went wrong here; the operators find it in the log"), headers


def _problem(status: int, detail: str, faults: tuple[Fault, ...] = ()) -> Problem:
    phrase = _TITLES.get(status) or HTTPStatus(status).phrase
    name = _TYPE_BY_STATUS.get(status) or phrase.lower().replace(" ", "_")
    return Problem(f"urn:iotplatform:problem:{name}", phrase, status, detail, faults)


def _faults(error: ValidationException, parameters: Mapping[str, str]) -> tuple[Fault, ...]:
    """What Litestar found wrong with the parameters of a request."""
    if not isinstance(error.extra, list):
        return (Fault(error.detail),)
    return tuple(
        Fault(str(entry.get("message", "")), field=parameters.get(entry.get("key", ""), entry.get("key")))
        for entry in error.extra
    )


def _whole_seconds(seconds: float) -> str:
    return str(max(1, math.ceil(seconds)))


async def send_problem(error: Exception, send: Send) -> None:
    """Answer by a problem document, outside Litestar's handlers."""
    answer = problem_response(error)
    await send({"type": "http.response.start", "status": answer.status, "headers": answer.headers})
    await send({"type": "http.response.body", "body": answer.body, "more_body": False})


def _handle(request: Request[Any, Any, Any], error: Exception) -> Response[bytes]:
    answer = problem_response(error, _parameter_names(request))
    headers = {name.decode(): value.decode() for name, value in answer.headers if name != b"content-length"}
    return Response(answer.body, status_code=answer.status, headers=headers, media_type=MEDIA_TYPE)


def _parameter_names(request: Request[Any, Any, Any]) -> dict[str, str]:
    scope: Mapping[str, Any] = request.scope
    if "route_handler" not in scope:
        return {}
    signature = scope["route_handler"].parsed_fn_signature
    definitions = {name: field.kwarg_definition for name, field in signature.parameters.items()}
    return {
        name: definition.name
        for name, definition in definitions.items()
        if isinstance(definition, ParameterKwarg) and definition.name
    }


# For `Litestar(exception_handlers=...)`: every exception comes here, Litestar's own included.
EXCEPTION_HANDLERS: Final[ExceptionHandlersMap] = {Exception: _handle}

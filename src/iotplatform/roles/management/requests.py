"""How a request is looked at before a route sees it, in the contract's order: 406, 401, 403, 413, 415, 400, 422."""

from __future__ import annotations

import re
from typing import Any, Final

import msgspec
from litestar import Request
from litestar.exceptions import InternalServerException
from litestar.exceptions.http_exceptions import RequestEntityTooLarge
from litestar.params import QueryParameter
from litestar.types import Empty

from iotplatform.domain.identifiers import IDENTIFIER_PATTERN
from iotplatform.errors import Fault, Rejected, Unavailable
from iotplatform.roles.management.patches import MERGE_PATCH

MAX_BODY_BYTES: Final = 1 << 20
MAX_RECEIVING_BYTES: Final = 64 << 20
SMALL_BYTES: Final = 1 << 16
# Of what a body calls its fields, so much is said back.
MAX_FAULTS: Final = 100
MAX_FIELD: Final = 80
# Text for people in one line: no control characters, NUL above all, which PostgreSQL can't store.
TEXT_PATTERN: Final = r"^[^\x00-\x1f\x7f-\x9f\u2028\u2029]*\Z"
# The same with line ends and tabs: what people write in more than one line.
PROSE_PATTERN: Final = r"^[^\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029]*\Z"

_SENTENCES: Final = {
    IDENTIFIER_PATTERN: "must be 1 to 64 characters out of A-Z, a-z, 0-9, '_' and '-'",
    TEXT_PATTERN: "must not contain control characters",
    PROSE_PATTERN: "must not contain control characters other than line ends and tabs",
}
_PLACE: Final = re.compile(r" - at `(?:key in )?\$(.*)`$")
_MATCHING: Final = re.compile(r"Expected `str` matching regex '(.*)'$", re.DOTALL)
_NO_JSON: Final = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)


class Receiving:
    """How much of bodies the process holds while they arrive: many large ones at once must not take the memory.

    What counts is what has arrived, not what was announced: announcing costs nothing. A body beyond 64 KiB gets no more
    as soon as half of the bound is held, so that large ones that don't end leave room for small ones.
    """

    def __init__(self, most_bytes: int) -> None:
        self.most = most_bytes
        self.held = 0

    def reserve(self, count: int, so_far: int) -> None:
        """For a body that holds `so_far`.

        Raises:
            Unavailable: it would be too much; nothing is reserved then.
        """
        if self.held + count > (self.most if so_far + count <= SMALL_BYTES else self.most // 2):
            raise Unavailable("too many requests are being received; nothing was done", retry_after_s=1)
        self.held += count

    def release(self, count: int) -> None:
        self.held -= count


receiving = Receiving(MAX_RECEIVING_BYTES)


class StrictRequest(Request[Any, Any, Any]):
    """Decodes a body into what the route takes, by JSON's own types; Litestar alone would take `"5"` for a number."""

    async def body(self) -> bytes:
        if self._connection_state.body is not Empty:
            return await super().body()
        chunks: list[bytes] = []
        size = 0
        try:
            async for chunk in self.stream():
                receiving.reserve(len(chunk), size)
                size += len(chunk)
                chunks.append(chunk)
        finally:
            receiving.release(size)
        self._connection_state.body = b"".join(chunks)
        return await super().body()

    async def json(self) -> Any:
        if "decoded" not in self.state:
            self.state["decoded"] = await self._decode()
        return self.state["decoded"]

    async def _decode(self) -> Any:
        try:
            data = await self.body()
        except RequestEntityTooLarge as error:
            raise Rejected("too_large", f"the body is larger than {MAX_BODY_BYTES} bytes") from error
        except InternalServerException as error:
            raise Rejected("malformed", "the request ended before its body did") from error
        given = self.content_type[0].lower()
        if given != "application/json" and not (given == MERGE_PATCH and self.method == "PATCH"):
            raise Rejected("unsupported_media", "the Content-Type must be application/json")
        if self.headers.get("content-encoding", "identity").lower() != "identity":
            raise Rejected("unsupported_media", "compressed bodies are not supported")
        wanted = self.route_handler.parsed_fn_signature.parameters["data"].annotation
        return decode_body(data, wanted)


def decode_body(data: bytes, wanted: type[msgspec.Struct]) -> Any:
    """A body as `wanted`, or all that is wrong with it.

    Raises:
        Rejected: it is no JSON (malformed), or not of this shape (invalid).
    """
    try:
        return msgspec.json.decode(data, type=wanted)
    except msgspec.ValidationError as error:
        first = error
    except _NO_JSON as error:
        raise _malformed(error) from error
    # Typed decoding stops at the first thing that has the wrong type: what follows may still be no JSON.
    try:
        raw = msgspec.json.decode(data)
    except msgspec.ValidationError:
        # A number that no float can hold.
        raw = None
    except _NO_JSON as error:
        raise _malformed(error) from error
    faults = _faults(raw, wanted) if isinstance(raw, dict) else ()
    raise Rejected("invalid", "the body is not valid", faults=faults or (_fault(str(first)),)) from first


def _malformed(error: Exception) -> Rejected:
    return Rejected("malformed", f"the body is no JSON: {error}")


def _faults(raw: dict[str, Any], wanted: type[msgspec.Struct]) -> tuple[Fault, ...]:
    """One for each field: msgspec itself stops at the first."""
    faults = []
    fields = {field.encode_name: field for field in msgspec.structs.fields(wanted)}
    for name, field in fields.items():
        if name not in raw:
            if field.required:
                faults.append(Fault("is required", field=name))
            continue
        try:
            msgspec.convert(raw[name], field.type)
        except msgspec.ValidationError as error:
            faults.append(_fault(str(error), name))
    faults += [Fault("is not known", field=name[:MAX_FIELD]) for name in raw if name not in fields]
    return tuple(faults[:MAX_FAULTS])


def _fault(message: str, field: str = "") -> Fault:
    place = _PLACE.search(message)
    sentence = message[: place.start()] if place else message
    path = field + (place[1] if place else "")
    pattern = _MATCHING.match(sentence)
    if pattern:
        # The message shows the pattern as repr does.
        sentence = next(
            (text for known, text in _SENTENCES.items() if repr(known)[1:-1] == pattern[1]),
            "has not the form it must have",
        )
    return Fault(sentence, field=path.removeprefix(".") or None)


async def look_at(request: Request[Any, Any, Any]) -> None:
    """`before_request` of every route: the body first, then the query."""
    body = request.route_handler.parsed_fn_signature.parameters.get("data")
    # A route whose body has a default takes a request without one.
    if body is not None and not (body.has_default and not await request.body()):
        await request.json()
    _check_query(request)


def _check_query(request: Request[Any, Any, Any]) -> None:
    parameters = request.route_handler.parsed_fn_signature.parameters
    known: dict[str, bool] = {}
    for name, field in parameters.items():
        if isinstance(field.kwarg_definition, QueryParameter):
            known[field.kwarg_definition.name or name] = field.is_non_string_sequence
    faults = []
    for name, values in request.query_params.dict().items():
        if name not in known:
            faults.append(Fault("is no parameter of this request", field=name))
        elif len(values) > 1 and not known[name]:
            faults.append(Fault("must be given once", field=name))
    if faults:
        raise Rejected("invalid", "the query is not valid", faults=tuple(faults))

"""The short way of `POST /ingest` through Uvicorn: from the parser to a lane and back, without ASGI in between.

An ASGI call costs a task, an event, four dictionaries and three coroutines; for a request that holds one reading that
is half of all its work. A plain request, which is nearly every one, is handed over as soon as its body is complete, and
is answered from where the stream's acknowledgement arrives. Everything else goes the ordinary way, and so does a plain
request in which something turns out to be wrong: the answers are the same, and a test holds the two ways together.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, ClassVar, Final, Protocol

from uvicorn.protocols.http.httptools_impl import STATUS_LINE

from iotplatform.app.http.problems import problem_response
from iotplatform.app.http.protocol import NEVER
from iotplatform.app.http.protocol import Protocol as HttpProtocol
from iotplatform.domain.payloads.admission import Sender
from iotplatform.errors import PlatformError
from iotplatform.roles.ingest.receiving import MAX_BODY_BYTES, Receiving, overloaded
from iotplatform.roles.ingest.senders import Recent, Senders
from iotplatform.runtime.clock import now_us

if TYPE_CHECKING:
    from iotplatform.observability.tracing import Tracer

PATH: Final = b"/ingest"
# Each of these means something that only the ordinary way knows.
SPECIAL: Final = frozenset(
    {
        b"content-encoding",
        b"expect",
        b"idempotency-key",
        b"origin",
        b"prefer",
        b"transfer-encoding",
        b"upgrade",
    }
)
_ACCEPTS: Final = frozenset({b"*/*", b"application/json"})
_JSON: Final = b"application/json"
_NOT_PLAIN: Final = (False, None)

Answer = Callable[[int, PlatformError | None], None]


class Door(Protocol):
    """Takes the bodies of plain requests; see `IngestEndpoint.begin`."""

    receiving: Receiving
    senders: Senders
    tracer: Tracer | None

    def begin(self, body: bytes, arrived_at: int, answer: Answer, sender: Sender | None = None) -> bool: ...


class HotPath:
    """`is_our_host` tells whether a request's Host header is known to be allowed."""

    def __init__(self, door: Door, is_our_host: Callable[[bytes], bool]) -> None:
        self.begin = door.begin
        self.receiving = door.receiving
        self.is_our_host = is_our_host
        self.sender_of = door.senders.recent
        self.required = door.senders.required
        # With a tracer, requests that are traced go the ordinary way.
        self.tracer = door.tracer
        self.special = SPECIAL if door.tracer is None else SPECIAL | {b"traceparent"}

    def plain(self, headers: list[tuple[bytes, bytes]], recent: Recent) -> tuple[bool, Sender | None]:
        """Whether these are the headers of a plain request, and whom it comes from; `recent` is the connection's."""
        length = -1
        sender: Sender | None = None
        hosts = 0
        for name, value in headers:
            if name == b"content-length":
                length = int(value) if value.isdigit() else -1
            elif name == b"host":
                hosts += 1
                if not self.is_our_host(value):
                    return _NOT_PLAIN
            elif name == b"content-type":
                if value != _JSON:
                    return _NOT_PLAIN
            elif name == b"authorization":
                # A second one is for the ordinary way.
                if sender is not None or (sender := self.sender_of(value, recent)) is None:
                    return _NOT_PLAIN
            elif name in self.special or (name == b"accept" and value not in _ACCEPTS):
                return _NOT_PLAIN
        let_in = sender is not None or not self.required
        return (let_in and hosts == 1 and 0 < length <= MAX_BODY_BYTES), sender


class _Waited:
    """In place of the event by which an ASGI application would be woken."""

    def set(self) -> None:
        pass


class Exchange:
    """A request on the short way, with what Uvicorn's protocol looks at in a request that is under way."""

    __slots__ = (
        "_protocol",
        "arrived_at",
        "chunks",
        "disconnected",
        "keep_alive",
        "received",
        "response_complete",
        "sender",
    )
    message_event: ClassVar = _Waited()

    def __init__(self, protocol: HotProtocol, sender: Sender | None, *, keep_alive: bool) -> None:
        self._protocol = protocol
        self.sender = sender
        self.received = 0
        self.arrived_at = now_us()
        self.chunks: list[bytes] = []
        self.keep_alive = keep_alive
        self.disconnected = False
        self.response_complete = False

    def answer(self, accepted: int, error: PlatformError | None) -> None:
        self.response_complete = True
        if self.disconnected:
            return
        protocol = self._protocol
        if error is None:
            body = b'{"status":"accepted","accepted":%d}' % accepted
            head = b"HTTP/1.1 202 Accepted\r\n%scontent-type: application/json\r\ncontent-length: %d\r\n"
            written = head % (protocol.default_head(), len(body))
        else:
            problem = problem_response(error)
            body = problem.body
            fields = b"".join(b"%s: %s\r\n" % field for field in problem.headers)
            written = b"%s%s%s" % (STATUS_LINE[problem.status], protocol.default_head(), fields)
        if self.keep_alive:
            protocol.transport.write(written + b"\r\n" + body)
        else:
            protocol.transport.write(written + b"connection: close\r\n\r\n" + body)
            protocol.transport.close()
        protocol.on_response_complete()


class HotProtocol(HttpProtocol):
    """The protocol with the short way. `hot_paths` (by port) belong to a subclass, which the server makes."""

    hot_paths: ClassVar[dict[int, HotPath]] = {}
    joined_heads: ClassVar[dict[str, tuple[object, bytes]]] = {}
    _hot: HotPath | None = None
    _exchange: Exchange | None = None

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        self._hot = self.hot_paths.get(self.server[1] or 0) if self.server else None
        self._recent = Recent()

    def default_head(self) -> bytes:
        """The headers that every answer has (its date), joined once a second."""
        headers = self.server_state.default_headers
        known, head = self.joined_heads.get("default", (None, b""))
        if known is not headers:
            # Uvicorn makes a new list every second.
            head = b"".join(b"%s: %s\r\n" % field for field in headers)
            self.joined_heads["default"] = (headers, head)
        return head

    def on_headers_complete(self) -> None:
        hot = self._hot
        if (
            hot is not None
            and self.url == PATH
            and not self._is_busy()
            and self.parser.get_method() == b"POST"
            and self.parser.get_http_version() == "1.1"
            and (plain := hot.plain(self.headers, self._recent))[0]
            and (hot.tracer is None or not hot.tracer.picks())
        ):
            self.end_head()
            exchange = Exchange(self, plain[1], keep_alive=self.staying and self.parser.should_keep_alive())
            self.cycle = exchange  # type: ignore[assignment]
            self._exchange = exchange
        else:
            super().on_headers_complete()

    def connection_lost(self, exc: Exception | None) -> None:
        self._received()
        super().connection_lost(exc)

    def _received(self) -> Exchange | None:
        """The request whose body was arriving, if there is one: it is complete, or will never be."""
        exchange, self._exchange = self._exchange, None
        if exchange is not None and self._hot is not None:
            self._hot.receiving.release(exchange.received)
        return exchange

    def _is_busy(self) -> bool:
        cycle: Any = self.cycle
        return cycle is not None and not cycle.response_complete

    def on_body(self, body: bytes) -> None:
        exchange = self._exchange
        if exchange is None or self._hot is None:
            super().on_body(body)
        elif self._hot.receiving.reserve(len(body), exchange.received):
            exchange.received += len(body)
            exchange.chunks.append(body)
        else:
            self._received()
            # The rest of it is not waited for, so nothing else can come on this connection.
            exchange.keep_alive = False
            exchange.answer(0, overloaded())

    def on_message_complete(self) -> None:
        exchange = self._received()
        if exchange is None or self._hot is None:
            super().on_message_complete()
            return
        self._since = NEVER
        body = exchange.chunks[0] if len(exchange.chunks) == 1 else b"".join(exchange.chunks)
        if not self._hot.begin(body, exchange.arrived_at, exchange.answer, exchange.sender):
            self.cycle = None  # type: ignore[assignment]
            super().on_headers_complete()
            super().on_body(body)
            super().on_message_complete()

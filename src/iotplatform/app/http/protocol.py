"""HTTP/1.1 as Uvicorn speaks it, with bounds on heads, on time and on connections, and problem documents for refusals.

Nobody holds a connection by saying nothing or little: a head and a body have their deadlines. They are watched by one
look at all connections every second, so that a request costs an assignment and no timer.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Iterable
from typing import Any, ClassVar, Final

from litestar.exceptions import HTTPException
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from iotplatform.app.http.problems import problem_response
from iotplatform.errors import Rejected, Unavailable

# From the first byte, or the connection itself, to the last header; and from there to the end of the body.
HEAD_WITHIN_S: Final = 10.0
BODY_WITHIN_S: Final = 30.0
# So long an answer may wait for a client that takes nothing of it.
TAKEN_WITHIN_S: Final = 60.0
LOOK_EVERY_S: Final = 1.0
NEVER: Final = math.inf

# The request line and all headers; what httptools itself would gather has no end.
MAX_HEAD_BYTES: Final = 65_536


class _HeadTooLarge(Exception):
    """Travels through the parser, which makes any exception in a callback one of its own."""


class Clock:
    """A time that is looked at often, and right to a second. It stands still while the process does."""

    def __init__(self) -> None:
        self.now = 0.0
        self._read_at = time.monotonic()

    def tick(self) -> float:
        now = time.monotonic()
        self.now += min(now - self._read_at, 2 * LOOK_EVERY_S)
        self._read_at = now
        return self.now


class Protocol(HttpToolsProtocol):
    """One connection. Refusals made here never reach an application, so they are answered here.

    `open_connections` (by port) and `most_connections` of each port belong to a subclass, which the server makes.
    """

    clock: ClassVar = Clock()
    open_connections: ClassVar[dict[int, int]] = {}
    # Once it is False, a connection ends with the answer to the next request on it.
    staying: ClassVar = True
    most_connections: ClassVar[float] = math.inf
    # When what is being received has begun.
    _since = NEVER
    # Since when an answer waits for its client.
    _full_since = NEVER

    _requests_begun = 0
    _in_head = True
    _head_bytes = 0
    _head_too_large = False

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        self._since = self.clock.now
        port = self.server[1] or 0 if self.server else 0
        self.open_connections[port] = count = self.open_connections.get(port, 0) + 1
        if count > self.most_connections:
            self._refuse(Unavailable("too many connections are open", retry_after_s=1))

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        port = self.server[1] or 0 if self.server else 0
        self.open_connections[port] = self.open_connections.get(port, 0) - 1

    def look(self, now: float) -> None:
        """Cut the connection when its head or its body takes too long, or nothing of an answer is taken."""
        if now - self._full_since > TAKEN_WITHIN_S:
            self.transport.abort()
            return
        cycle: Any = self.cycle
        if self._since == NEVER:
            answered = cycle is None or cycle.response_complete
            if answered and self.timeout_keep_alive_task is None:
                # Something came after the last answer that has not become a request yet.
                self._since = now
                self._in_head = True
            return
        within_s, what = (HEAD_WITHIN_S, "head") if self._in_head else (BODY_WITHIN_S, "body")
        if now - self._since <= within_s:
            return
        self._since = NEVER
        # An answer that has begun is not followed by another one.
        begun = not cycle.response_complete if self._in_head and cycle else getattr(cycle, "response_started", False)
        if begun:
            self.transport.close()
        else:
            detail = f"the request's {what} did not arrive within {within_s:g} s"
            self._refuse(HTTPException(status_code=408, detail=detail))

    def pause_writing(self) -> None:
        self._full_since = self.clock.now
        super().pause_writing()

    def resume_writing(self) -> None:
        self._full_since = NEVER
        super().resume_writing()

    def data_received(self, data: bytes) -> None:
        begun = self._requests_begun
        super().data_received(data)
        # A head that goes on: nothing of it may have come back from the parser yet.
        if self._in_head and begun == self._requests_begun and not self.transport.is_closing():
            self._head_bytes += len(data)
            if self._head_bytes > MAX_HEAD_BYTES:
                self._head_too_large = True
                self.send_400_response("")

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._requests_begun += 1
        self._in_head = True
        self._head_bytes = 0
        self._since = self.clock.now

    def on_message_complete(self) -> None:
        self._since = NEVER
        super().on_message_complete()

    def on_headers_complete(self) -> None:
        self.end_head()
        super().on_headers_complete()
        if not self.staying:
            self.cycle.keep_alive = False

    def end_head(self) -> None:
        self._in_head = False
        self._since = self.clock.now
        if len(self.url) + sum(len(name) + len(value) for name, value in self.headers) > MAX_HEAD_BYTES:
            self._head_too_large = True
            raise _HeadTooLarge

    def send_400_response(self, msg: str) -> None:  # noqa: ARG002 - Uvicorn's one sentence for everything
        error: Exception = Rejected("malformed", "the request is no valid HTTP/1.1")
        if self._head_too_large:
            detail = f"the request line and the headers are larger than {MAX_HEAD_BYTES} bytes"
            error = HTTPException(status_code=431, detail=detail)
        self._refuse(error)

    def _refuse(self, error: Exception) -> None:
        answer = problem_response(error)
        fields = [*answer.headers, (b"connection", b"close")]
        head = b"".join(b"%b: %b\r\n" % field for field in fields)
        self.transport.write(b"%b%b\r\n%b" % (STATUS_LINE[answer.status], head, answer.body))
        self.transport.close()

    def _unsupported_upgrade_warning(self) -> None:
        # An upgrade that is not offered is not taken (RFC 9110, 7.8). It is nothing to warn of, at a stranger's will.
        pass


async def watch(connections: Iterable[Any]) -> None:
    """Until cancelled."""
    while True:
        now = Protocol.clock.tick()
        for connection in list(connections):
            if isinstance(connection, Protocol) and not connection.transport.is_closing():
                connection.look(now)
        await asyncio.sleep(LOOK_EVERY_S)

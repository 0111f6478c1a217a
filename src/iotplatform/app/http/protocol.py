"""HTTP/1.1 as Uvicorn speaks it, with a bound on the head of a request and problem documents for what is none."""

from __future__ import annotations

from typing import Final

from litestar.exceptions import HTTPException
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from iotplatform.app.http.problems import problem_response
from iotplatform.errors import Rejected

# The request line and all headers; what httptools itself would gather has no end.
MAX_HEAD_BYTES: Final = 65_536


class _HeadTooLarge(Exception):
    """Travels through the parser, which makes any exception in a callback one of its own."""


class Protocol(HttpToolsProtocol):
    """One connection. Refusals made here never reach an application, so they are answered here."""

    _requests_begun = 0
    _in_head = True
    _head_bytes = 0
    _head_too_large = False

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

    def on_headers_complete(self) -> None:
        self.end_head()
        super().on_headers_complete()

    def end_head(self) -> None:
        self._in_head = False
        if len(self.url) + sum(len(name) + len(value) for name, value in self.headers) > MAX_HEAD_BYTES:
            self._head_too_large = True
            raise _HeadTooLarge

    def send_400_response(self, msg: str) -> None:  # noqa: ARG002 - Uvicorn's one sentence for everything
        error: Exception = Rejected("malformed", "the request is no valid HTTP/1.1")
        if self._head_too_large:
            detail = f"the request line and the headers are larger than {MAX_HEAD_BYTES} bytes"
            error = HTTPException(status_code=431, detail=detail)
        answer = problem_response(error)
        fields = [*answer.headers, (b"connection", b"close")]
        head = b"".join(b"%b: %b\r\n" % field for field in fields)
        self.transport.write(b"%b%b\r\n%b" % (STATUS_LINE[answer.status], head, answer.body))
        self.transport.close()

    def _unsupported_upgrade_warning(self) -> None:
        # An upgrade that is not offered is not taken (RFC 9110, 7.8). It is nothing to warn of, at a stranger's will.
        pass

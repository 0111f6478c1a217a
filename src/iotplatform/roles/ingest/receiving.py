"""Bodies as they arrive: how much of them a process holds, and how large one may be, before and after decompression."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, Final

from iotplatform.domain.payloads.compression import decompress
from iotplatform.errors import Rejected, Unavailable

MAX_BODY_BYTES: Final = 1 << 20
SMALL: Final = 1 << 16
_TOO_LARGE: Final = f"the body is larger than {MAX_BODY_BYTES} bytes: send fewer readings in a request"


class Receiving:
    """A bound on bytes over all connections, so that many slow or large bodies can't take the memory.

    What counts is what has arrived, not what was announced: announcing costs nothing. A body beyond 64 KiB gets no more
    as soon as half of the bound is held, so that large ones that don't end leave room for small ones.
    """

    __slots__ = ("held", "most")

    def __init__(self, most_bytes: int) -> None:
        self.most = most_bytes
        self.held = 0

    def reserve(self, count: int, so_far: int) -> bool:
        """For a body that holds `so_far`. False when it would be too much; nothing is reserved then."""
        if self.held + count > (self.most if so_far + count <= SMALL else self.most // 2):
            return False
        self.held += count
        return True

    def release(self, count: int) -> None:
        self.held -= count


def check_declared_length(declared: bytes) -> None:
    if declared.isdigit() and int(declared) > MAX_BODY_BYTES:
        raise Rejected("too_large", _TOO_LARGE)


async def read_body(receive: Callable[[], Awaitable[Any]], receiving: Receiving) -> bytes:
    """A body that is not larger than it may be.

    Raises:
        Rejected: it is (`too_large`), or it never ended (`malformed`).
        Unavailable: too much is being received.
    """
    chunks: list[bytes] = []
    size = 0
    try:
        while True:
            message = await receive()
            if message["type"] != "http.request":
                raise Rejected("malformed", "the request ended before its body did")
            chunk: bytes = message["body"]
            if not receiving.reserve(len(chunk), size):
                raise overloaded()
            size += len(chunk)
            if size > MAX_BODY_BYTES:
                raise Rejected("too_large", _TOO_LARGE)
            chunks.append(chunk)
            if not message["more_body"]:
                return b"".join(chunks) if len(chunks) > 1 else chunk
    finally:
        receiving.release(size)


def unpack(body: bytes, encoding: bytes) -> bytes:
    """The body behind its Content-Encoding; no larger than one that comes without."""
    return decompress(body, encoding.decode("latin-1").strip().lower(), MAX_BODY_BYTES)


def overloaded() -> Unavailable:
    return Unavailable("too many requests are being received; nothing was stored", retry_after_s=1)

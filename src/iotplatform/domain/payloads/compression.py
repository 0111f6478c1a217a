"""Compressed bodies, and a bound on what comes out of them: a bomb is noticed by its first bytes too many."""

from __future__ import annotations

import sys
import zlib
from typing import Final, Protocol

if sys.version_info >= (3, 14):
    from compression.zstd import DecompressionParameter, ZstdDecompressor, ZstdError
else:
    from backports.zstd import DecompressionParameter, ZstdDecompressor, ZstdError

from iotplatform.errors import Rejected

# A frame may ask for a window of its own size, which is taken from our memory: 8 MiB is what a decoder has to support.
MAX_WINDOW_LOG: Final = 23
# Both formats may be several, one behind the other; each is a copy of what is left.
MAX_MEMBERS: Final = 64
_GZIP: Final = 16 + zlib.MAX_WBITS


class _Decompressor(Protocol):
    @property
    def eof(self) -> bool: ...
    @property
    def unused_data(self) -> bytes: ...
    def decompress(self, data: bytes, max_length: int = ..., /) -> bytes: ...


def decompress(body: bytes, encoding: str, max_bytes: int) -> bytes:
    """The body behind a Content-Encoding.

    Raises:
        Rejected: the encoding is unknown (`unsupported_media`), more than `max_bytes` would come out (`too_large`), or
            the body is not of this encoding or cut off (`malformed`).
    """
    match encoding:
        case "" | "identity":
            return body
        case "gzip" | "x-gzip" | "zstd":
            return _inflate(body, encoding, max_bytes)
        case _:
            raise Rejected("unsupported_media", "the Content-Encoding must be gzip, zstd or identity")


def _inflate(body: bytes, encoding: str, max_bytes: int) -> bytes:
    parts: list[bytes] = []
    left = max_bytes
    rest = body
    try:
        while rest or not parts:
            if len(parts) == MAX_MEMBERS:
                raise Rejected("malformed", f"the body is made of more than {MAX_MEMBERS} parts of {encoding}")
            decompressor = _make(encoding)
            part = decompressor.decompress(rest, left + 1)
            left -= len(part)
            if left < 0:
                raise Rejected("too_large", f"the body is larger than {max_bytes} bytes when it is decompressed")
            if not decompressor.eof:
                raise Rejected("malformed", f"the body is cut off: its {encoding} has no end")
            parts.append(part)
            rest = decompressor.unused_data
    except (zlib.error, ZstdError, EOFError) as error:
        raise Rejected("malformed", f"the body is not {encoding}: {error}") from None
    return b"".join(parts)


def _make(encoding: str) -> _Decompressor:
    if encoding == "zstd":
        return ZstdDecompressor(options={DecompressionParameter.window_log_max: MAX_WINDOW_LOG})
    return zlib.decompressobj(_GZIP)

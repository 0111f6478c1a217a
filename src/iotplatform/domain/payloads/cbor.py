"""CBOR (RFC 8949) to plain objects, as far as telemetry needs it, and nothing that could grow, loop or run.

Our own, because libraries give strangers all of CBOR: shared references, dates, regular expressions, sets, and arrays
that are as long as their first byte says. Here a length is never believed before the bytes are there.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Any, Final

MAX_DEPTH: Final = 32
_MAX_EXPONENT: Final = 400
MAX_LABEL: Final = 1 << 16
_BREAK: Final = object()
_SELF_DESCRIBED: Final = 55_799


class NotCbor(ValueError):
    """The bytes are no CBOR that is understood here; the message says why."""


def decode_cbor(data: bytes) -> Any:
    """One data item. Byte strings are bytes; maps have keys of text or whole numbers, each once.

    Raises:
        NotCbor: they are not exactly one item.
    """
    reader = _Reader(data)
    item = reader.item(0)
    if item is _BREAK:
        raise NotCbor("a break has nothing to end")
    if reader.at != len(data):
        raise NotCbor(f"{len(data) - reader.at} bytes follow the item")
    return item


class _Reader:
    def __init__(self, data: bytes) -> None:
        self._data = data
        self.at = 0
        self._kinds: tuple[Callable[[int, int], Any], ...] = (
            lambda detail, _: self._number(detail),
            lambda detail, _: -1 - self._number(detail),
            lambda detail, _: self._string(detail, 2),
            lambda detail, _: self._text(detail),
            self._array,
            self._map,
            self._tagged,
            lambda detail, _: self._simple(detail),
        )

    def item(self, depth: int) -> Any:
        if depth > MAX_DEPTH:
            raise NotCbor(f"it is nested deeper than {MAX_DEPTH} levels")
        first = self._take(1)[0]
        return self._kinds[first >> 5](first & 31, depth)

    def _inner(self, depth: int) -> Any:
        item = self.item(depth + 1)
        if item is _BREAK:
            raise NotCbor("a break stands where an item must")
        return item

    def _take(self, count: int) -> bytes:
        end = self.at + count
        if end > len(self._data):
            raise NotCbor("it ends too early")
        taken = self._data[self.at : end]
        self.at = end
        return taken

    def _number(self, detail: int) -> int:
        if detail < 24:
            return detail
        if detail > 27:
            raise NotCbor(f"additional information {detail} has no meaning here")
        return int.from_bytes(self._take(1 << (detail - 24)), "big")

    def _string(self, detail: int, kind: int) -> bytes:
        if detail != 31:
            return self._take(self._number(detail))
        chunks = []
        while (first := self._take(1)[0]) != 0xFF:
            if first >> 5 != kind or first & 31 == 31:
                raise NotCbor("a string is made of something else")
            chunks.append(self._take(self._number(first & 31)))
        return b"".join(chunks)

    def _text(self, detail: int) -> str:
        try:
            return self._string(detail, 3).decode()
        except UnicodeDecodeError as error:
            raise NotCbor("a text is not UTF-8") from error

    def _array(self, detail: int, depth: int) -> list[Any]:
        if detail != 31:
            return [self._inner(depth) for _ in range(self._count(detail, 1))]
        items = []
        while (item := self.item(depth + 1)) is not _BREAK:
            items.append(item)
        return items

    def _map(self, detail: int, depth: int) -> dict[str | int, Any]:
        entries: dict[str | int, Any] = {}
        left = -1 if detail == 31 else self._count(detail, 2)
        while left:
            key = self.item(depth + 1)
            if key is _BREAK and detail == 31:
                break
            # Larger numbers are labels of nothing here, and those that are chosen for their hashes make a dict slow.
            if type(key) is not str and not (type(key) is int and -MAX_LABEL <= key <= MAX_LABEL):
                raise NotCbor(f"a key is neither a text nor a whole number of at most {MAX_LABEL}")
            if key in entries:
                raise NotCbor("a map has a key twice")
            entries[key] = self._inner(depth)
            left -= 1
        return entries

    def _count(self, detail: int, bytes_each: int) -> int:
        count = self._number(detail)
        if count * bytes_each > len(self._data) - self.at:
            raise NotCbor("it ends too early")
        return count

    def _tagged(self, detail: int, depth: int) -> Any:
        tag = self._number(detail)
        content = self._inner(depth)
        # 0 and 1 are times as text and as a number: what they are is up to who reads them.
        if tag in {0, 1, _SELF_DESCRIBED}:
            return content
        if tag in {2, 3} and isinstance(content, bytes) and len(content) <= 128:
            number = int.from_bytes(content, "big")
            return -1 - number if tag == 3 else number
        if tag == 4:
            return _decimal_fraction(content)
        raise NotCbor(f"the tag {tag} is not understood")

    def _simple(self, detail: int) -> Any:
        match detail:
            case 20 | 21:
                return detail == 21
            case 22 | 23:
                return None
            case 25 | 26 | 27:
                size = 1 << (detail - 24)
                return struct.unpack(">" + " efd"[detail - 24], self._take(size))[0]
            case 31:
                return _BREAK
        raise NotCbor(f"the simple value {detail} is not understood")


def _decimal_fraction(content: Any) -> float:
    match content:
        case [int(exponent), int(mantissa)] if abs(exponent) <= _MAX_EXPONENT:
            return float(f"{mantissa}e{exponent}")
    raise NotCbor("a decimal fraction has not the form it must have")

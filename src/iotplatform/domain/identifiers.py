"""What may be part of a subject, a key or a series, and where a device belongs."""

from __future__ import annotations

import re
from hashlib import sha256
from typing import Final
from zlib import crc32

MAX_SENSOR_BYTES: Final = 512
MAX_IDENTIFIER: Final = 64

IDENTIFIER_PATTERN: Final = r"^[A-Za-z0-9_-]{1,64}\Z"
_identifier = re.compile(IDENTIFIER_PATTERN)
_foreign = re.compile(r"[^A-Za-z0-9_-]")
# C0, DEL and C1, and the two separators that some consumers of text take for line ends.
_control = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029]")


def identifier_fault(text: str) -> str | None:
    """Why `text` can't be an id that becomes part of a subject; None when it can."""
    if _identifier.match(text):
        return None
    return "must be 1 to 64 characters out of A-Z, a-z, 0-9, '_' and '-'"


def sensor_fault(name: str) -> str | None:
    """Why `name` can't name a sensor; None when it can."""
    if not name:
        return "must not be empty"
    if len(name.encode("utf-8", "surrogatepass")) > MAX_SENSOR_BYTES:
        return f"must be at most {MAX_SENSOR_BYTES} bytes of UTF-8"
    if _control.search(name):
        return "must not contain control characters"
    return None


def partition_of(device_id: str, partitions: int) -> int:
    """The partition of a device: the same in every process and for ever, since it is part of stored subjects."""
    return crc32(device_id.encode()) % partitions if partitions > 1 else 0


def device_id_of(original: str) -> str:
    """The id of a device that is called `original` elsewhere: that itself, or one made of it and of its hash.

    The same for ever, since it is part of stored subjects.
    """
    if _identifier.match(original):
        return original
    digest = sha256(original.encode("utf-8", "surrogatepass")).hexdigest()[:8]
    return f"{_foreign.sub('-', original)[: MAX_IDENTIFIER - 9]}-{digest}"

"""Who tries secrets: after a burst of refusals, new ones from an address are looked at only now and then."""

from __future__ import annotations

import hashlib
import ipaddress
import time
from collections.abc import Callable
from typing import Final

from iotplatform.runtime.attempts import Attempts

BURST: Final = 100
EVERY_S: Final = 1.0
MANY: Final = 10_000
# Secrets that have opened something.
MAX_WELCOME: Final = 50_000
# What one holder of IPv6 addresses has at the least.
_PREFIX: Final = 64


class Strangers:
    """Only different secrets count: one that is refused again and again, because somebody still has an old one in its
    settings, is no guess. One that was let in before is looked at however many others are guessed from its address.
    """

    def __init__(
        self,
        burst: int = BURST,
        every_s: float = EVERY_S,
        *,
        most: int = MANY,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self._attempts = Attempts(burst, every_s, most=most, now=now)
        self._most = most
        self._refused: dict[bytes, None] = {}
        self._welcome: dict[bytes, None] = {}

    def wait_s(self, address: str, secret: bytes) -> float:
        """0 when this secret may be looked at; otherwise the seconds until it may."""
        wait_s = self._attempts.wait_s(holder_of(address))
        if wait_s <= 0:
            return 0.0
        digest = _digest(secret)
        return 0.0 if digest in self._refused or digest in self._welcome else wait_s

    def let_in(self, secret: bytes) -> None:
        """It was looked at, and opens something."""
        digest = _digest(secret)
        if digest in self._welcome:
            return
        while len(self._welcome) >= MAX_WELCOME:
            del self._welcome[next(iter(self._welcome))]
        self._welcome[digest] = None

    def refused(self, address: str, secret: bytes) -> None:
        """It was looked at, and opens nothing."""
        digest = _digest(secret)
        self._welcome.pop(digest, None)
        if digest in self._refused:
            return
        while len(self._refused) >= self._most:
            del self._refused[next(iter(self._refused))]
        self._refused[digest] = None
        self._attempts.take(holder_of(address))


def holder_of(address: str) -> str:
    """The address, or for IPv6 the network of whoever has it."""
    if ":" not in address:
        return address
    try:
        found = ipaddress.IPv6Address(address.partition("%")[0])
    except ValueError:
        return address
    if found.ipv4_mapped is not None:
        return str(found.ipv4_mapped)
    return str(ipaddress.IPv6Network((found, _PREFIX), strict=False))


def _digest(secret: bytes) -> bytes:
    return hashlib.sha256(secret).digest()[:16]

"""What was looked up in vain a moment ago."""

from __future__ import annotations

import time
from typing import Final

MISS_KEPT_S: Final = 1.0
MAX_MISSES: Final = 10_000


class Misses:
    """So that a flood of look-ups in vain is no flood of queries."""

    def __init__(self, kept_s: float = MISS_KEPT_S, most: int = MAX_MISSES) -> None:
        self._kept_s = kept_s
        self._most = most
        self._until: dict[str, float] = {}

    def __contains__(self, key: str) -> bool:
        until = self._until.get(key)
        return until is not None and until > time.monotonic()

    def add(self, key: str) -> None:
        # All are kept equally long, so the first ones end first.
        self._until.pop(key, None)
        while len(self._until) >= self._most:
            del self._until[next(iter(self._until))]
        self._until[key] = time.monotonic() + self._kept_s

    def drop(self, key: str) -> None:
        self._until.pop(key, None)

    def clear(self) -> None:
        self._until.clear()

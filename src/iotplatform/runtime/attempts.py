"""How often somebody may try: a few times at once, and then one time every so many seconds."""

from __future__ import annotations

import time
from collections.abc import Callable


class Attempts:
    """Counted by key. At most `most` keys are remembered, and those tried last are the last to be forgotten."""

    def __init__(
        self, burst: int, every_s: float, *, most: int = 10_000, now: Callable[[], float] = time.monotonic
    ) -> None:
        self._burst = burst
        self._every_s = every_s
        self._most = most
        self._now = now
        # When all attempts of a key will be its own again.
        self._full_at: dict[str, float] = {}

    def take(self, key: str) -> float:
        """0 when the key may try, which is then counted; otherwise the seconds until it may."""
        now = self._now()
        full_at = max(self._full_at.pop(key, now), now)
        wait_s = full_at - now - (self._burst - 1) * self._every_s
        if wait_s <= 0:
            full_at += self._every_s
        while len(self._full_at) >= self._most:
            del self._full_at[next(iter(self._full_at))]
        self._full_at[key] = full_at
        return max(wait_s, 0.0)

    def wait_s(self, key: str) -> float:
        """The seconds until the key may try; nothing is counted."""
        now = self._now()
        return max(0.0, self._full_at.get(key, now) - now - (self._burst - 1) * self._every_s)

    def forget(self, key: str) -> None:
        """It was the right one."""
        self._full_at.pop(key, None)

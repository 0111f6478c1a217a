"""How long to wait before trying again."""

from __future__ import annotations

import asyncio
import random


class Backoff:
    """Doubles from `first_s` to `most_s`, with jitter so that processes don't return in step."""

    def __init__(self, first_s: float = 0.1, most_s: float = 5.0) -> None:
        self._first_s = first_s
        self._most_s = most_s
        self._next_s = first_s

    def next_s(self) -> float:
        delay = self._next_s
        self._next_s = min(self._most_s, delay * 2)
        return delay * random.uniform(0.75, 1.25)  # noqa: S311 - spreading load, not a secret

    def reset(self) -> None:
        self._next_s = self._first_s

    async def wait(self) -> None:
        await asyncio.sleep(self.next_s())

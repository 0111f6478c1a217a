"""Long computations that let the event loop turn."""

from __future__ import annotations

import asyncio
from typing import Final

# About ten milliseconds of work.
STEPS: Final = 2_000


class Pace:
    """Counts steps of work, and gives way after every so many."""

    def __init__(self, steps: int = STEPS) -> None:
        self.steps = steps
        self._left = steps

    async def done(self, steps: int) -> None:
        self._left -= steps
        if self._left <= 0:
            self._left = self.steps
            await asyncio.sleep(0)

"""Tests of channels are few: the other side is somebody else's, and must not be flooded by our hand."""

from __future__ import annotations

import asyncio
import time
from typing import Final

from iotplatform.errors import Rejected

# Of one organization.
EVERY_S: Final = 1.0
AT_ONCE: Final = 8


class TestTurns:
    """Who may send a test now."""

    def __init__(self) -> None:
        self._last: dict[int, float] = {}
        self.room = asyncio.Semaphore(AT_ONCE)

    def take(self, epoch: int) -> None:
        """Raises:
        Rejected: this organization has sent one just now.
        """
        now = time.monotonic()
        self._last = {key: at for key, at in self._last.items() if now - at < EVERY_S}
        if epoch in self._last or self.room.locked():
            raise Rejected("over_quota", "one test in a second: try again", retry_after_s=EVERY_S)
        self._last[epoch] = now

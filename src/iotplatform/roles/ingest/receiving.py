"""How much of requests' bodies a process holds while they arrive."""

from __future__ import annotations

from typing import Final

SMALL: Final = 1 << 16


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

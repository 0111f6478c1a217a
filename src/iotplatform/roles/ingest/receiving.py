"""How much of requests' bodies a process holds while they arrive."""

from __future__ import annotations


class Receiving:
    """A bound on bytes over all connections, so that many slow or large bodies can't take the memory."""

    __slots__ = ("held", "most")

    def __init__(self, most_bytes: int) -> None:
        self.most = most_bytes
        self.held = 0

    def reserve(self, count: int) -> bool:
        """False when they would be too many; nothing is reserved then."""
        if self.held + count > self.most:
            return False
        self.held += count
        return True

    def release(self, count: int) -> None:
        self.held -= count

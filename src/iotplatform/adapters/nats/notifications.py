"""The reader of the stream NOTIFICATIONS, which one process of a role has at a time."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from iotplatform.adapters.nats.readers import Readers
from iotplatform.adapters.nats.shares import Claim, SharedReaders
from iotplatform.adapters.nats.subjects import NOTIFICATIONS
from iotplatform.runtime.membership import Membership


class NotificationsReader(SharedReaders):
    """`acquire` returns the role's stored position."""

    def __init__(self, readers: Readers, membership: Membership, acquire: Callable[[], Awaitable[int]]) -> None:
        super().__init__(readers, membership)
        self._claim = Claim(f"{self.role}/{NOTIFICATIONS}", NOTIFICATIONS, self.role, acquire)

    def follow(self) -> None:
        self.claim({self._claim.key: self._claim})

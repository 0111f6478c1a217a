"""How many of an organization's transitions in NOTIFICATIONS are not handled yet.

The stream is shared, and refuses everybody when it is full: whoever has too many there has to wait before it is.
"""

from __future__ import annotations

import time
from typing import Final

from iotplatform.adapters.nats import subjects
from iotplatform.adapters.nats.api import ApiError, JetStreamApi
from iotplatform.adapters.nats.connection import Connection
from iotplatform.adapters.nats.consumers import NOTIFICATION_ROLES
from iotplatform.errors import Unavailable

SHARE: Final = 10_000
LOOK_EVERY_S: Final = 0.5


class OutstandingTransitions:
    """Counts what this process has published and not yet seen handled by both readers of NOTIFICATIONS.

    The readers' acknowledgement floors are looked up only while there are many, and not oftener than every half second.
    """

    def __init__(self, connection: Connection, *, share: int = SHARE) -> None:
        self._api = JetStreamApi(connection)
        self._share = share
        self._sequences: dict[int, list[int]] = {}
        self._total = 0
        self._look_at = 0.0

    def published(self, epoch: int, sequence: int) -> None:
        self._sequences.setdefault(epoch, []).append(sequence)
        self._total += 1

    def of(self, epoch: int) -> int:
        return len(self._sequences.get(epoch, ()))

    async def is_over_share(self, epoch: int) -> bool:
        """Whether the organization has to wait.

        Raises:
            Unavailable: it has very many, and JetStream is away.
        """
        many = self.of(epoch) >= self._share or self._total >= 4 * self._share
        if many and time.monotonic() >= self._look_at:
            self._look_at = time.monotonic() + LOOK_EVERY_S
            self._handled(min([await self._floor(role) for role in NOTIFICATION_ROLES]))
        return self.of(epoch) >= self._share

    async def _floor(self, consumer: str) -> int:
        try:
            answer = await self._api.call(f"CONSUMER.INFO.{subjects.NOTIFICATIONS}.{consumer}")
        except ApiError as error:  # it is being made again
            raise Unavailable(str(error)) from error
        return int(answer["ack_floor"]["stream_seq"])

    def _handled(self, floor: int) -> None:
        left = {
            epoch: [sequence for sequence in sequences if sequence > floor]
            for epoch, sequences in self._sequences.items()
        }
        self._sequences = {epoch: sequences for epoch, sequences in left.items() if sequences}
        self._total = sum(map(len, self._sequences.values()))

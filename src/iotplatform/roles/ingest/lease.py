"""Tokens of one stack of buckets that this process holds already, and how many it asks for next."""

from __future__ import annotations

import asyncio
from typing import Final

from iotplatform.domain.limit import Counted, Grant, Rates, TokenBuckets

# A lease that is used up faster than this was too small, and one that lasts longer is too large.
TOO_FAST_S: Final = 5.0
TOO_SLOW_S: Final = 30.0
MOST_TIMES: Final = 8
FIRST: Final = 64
# No process holds more than this part of the smallest bucket. A device speaks to one process, an organization to all.
MOST_OF_ORGANIZATION: Final = 10
MOST_OF_DEVICE: Final = 2
# After a refusal, Redis is not asked again before this, however fast the tokens come back.
CLOSED_S: Final = 0.02


class Lease:
    """`left` is all that the hot path looks at, and `low` what it compares with afterwards."""

    __slots__ = (
        "_asked_at",
        "closed_until",
        "counted",
        "epoch",
        "idle_rounds",
        "left",
        "local",
        "low",
        "most",
        "near_until",
        "need",
        "rates",
        "size",
        "smallest",
        "subject",
        "used",
        "waiter",
        "wanted",
    )

    def __init__(self, epoch: int, counted: Counted, subject: str, rates: Rates) -> None:
        self.epoch = epoch
        self.counted: Counted = counted
        self.subject = subject
        self.rates = rates
        self.smallest = min(rate.count for rate in rates)
        self.most = max(1, self.smallest // (MOST_OF_DEVICE if subject else MOST_OF_ORGANIZATION))
        self.left = 0
        self.size = min(self.most, FIRST)
        # Below this, more is asked for before anybody has to wait.
        self.low = 0
        # What all those need who wait, and the one of them who needs most; and what tells them that an answer is there.
        self.wanted = 0
        self.need = 0
        self.waiter: asyncio.Future[None] | None = None
        self.used = True
        self.idle_rounds = 0
        self.closed_until = 0.0
        self.near_until = 0.0
        # In place of Redis while that is away.
        self.local: TokenBuckets | None = None
        self._asked_at = 0.0

    @property
    def scope(self) -> str:
        return "device" if self.subject else "organization"

    def resize(self, now: float) -> None:
        """Before more is asked for."""
        # The first one tells nothing.
        lasted = now - self._asked_at if self._asked_at else TOO_FAST_S
        if lasted < TOO_FAST_S:
            # Towards what would have lasted long enough; each step is a round trip.
            times = min(MOST_TIMES, max(2, int(TOO_FAST_S / max(lasted, 0.001))))
            self.size = min(self.size * times, self.most)
        elif lasted > TOO_SLOW_S:
            self.size = max(1, self.size // 2)
        self._asked_at = now

    def take_in(self, grant: Grant, now: float) -> None:
        self.left += grant.tokens
        self.low = min(self.left, self.size) // 4
        if grant.wait_s > 0:
            self.closed_until = now + max(CLOSED_S, grant.wait_s)
            # Asking for more before then would be in vain.
            self.low = 0

    def use(self, amount: int) -> bool:
        """Whether more should be asked for."""
        self.left -= amount
        self.used = True
        return self.left < self.low

"""What happened, in figures: counted while it runs, told at the end."""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Callable
from typing import Final

_GROWTH: Final = math.log(1.01)
_FLOOR_MS: Final = 0.001


class Latencies:
    """Percentiles to within 1 %, in buckets that grow by 1 %: an endless fleet must not keep every duration."""

    def __init__(self) -> None:
        self._buckets: Counter[int] = Counter()
        self.max_ms = 0.0

    def add(self, seconds: float) -> None:
        milliseconds = seconds * 1000
        self._buckets[math.floor(math.log(max(milliseconds, _FLOOR_MS)) / _GROWTH)] += 1
        self.max_ms = max(self.max_ms, milliseconds)

    def percentile_ms(self, percent: float) -> float:
        """The nearest-rank percentile; 0 when there is nothing to rank."""
        rank = math.ceil(self._buckets.total() * percent / 100)
        seen = 0
        for bucket in sorted(self._buckets):
            seen += self._buckets[bucket]
            if seen >= rank:
                # The middle of the bucket, except that nothing lies above the largest seen.
                return min(math.exp((bucket + 0.5) * _GROWTH), self.max_ms)
        return 0.0


class Tally:
    """Counts of one simulation. `on_accepted` hears of every accepted batch; a progress bar listens there."""

    def __init__(self, on_accepted: Callable[[int], object] = lambda _: None) -> None:
        self._on_accepted = on_accepted
        self._started: float | None = None
        self._seconds = 0.0
        self.sent = 0
        self.accepted = 0
        self.requests = 0
        self.retries = 0
        self.batches_in_doubt = 0
        self.overdue = 0
        self.latencies = Latencies()

    @property
    def seconds(self) -> float:
        return self._seconds

    def start(self) -> None:
        self._started = time.perf_counter()

    def stop(self) -> None:
        if self._started is not None:
            self._seconds = time.perf_counter() - self._started

    def count_accepted(self, readings: int) -> None:
        self.accepted += readings
        self._on_accepted(readings)

    def report(self) -> str:
        """One `name: value` line per figure, and one more for everything that needs a second look."""
        rate = self.accepted / self._seconds if self._seconds else 0.0
        latency = self.latencies
        p50, p99 = latency.percentile_ms(50), latency.percentile_ms(99)
        lines = [
            f"readings sent: {self.sent}",
            f"readings accepted: {self.accepted}",
            f"seconds: {self._seconds:.2f}",
            f"readings/s: {rate:.1f}",
            f"requests: {self.requests}",
            f"request latency ms: p50 {p50:.1f}, p99 {p99:.1f}, max {latency.max_ms:.1f}",
            f"retries: {self.retries}",
        ]
        if self.batches_in_doubt:
            batches = "1 batch was" if self.batches_in_doubt == 1 else f"{self.batches_in_doubt} batches were"
            lines.append(f"{batches} retried after an unknown outcome: those readings may have been accepted twice")
        if self.overdue:
            lines.append(f"readings due and not sent: {self.overdue} (the platform was slower than the rate)")
        if self.sent > self.accepted:
            lines.append(f"readings never confirmed: {self.sent - self.accepted}")
        return "\n".join(lines)

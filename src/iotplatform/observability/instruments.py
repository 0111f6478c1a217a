"""What metrics are made of: plain numbers that hot paths change, and functions that are asked at a scrape."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Final, NamedTuple

from opentelemetry.metrics import CallbackOptions, Observation
from prometheus_client.core import HistogramMetricFamily

LATENCY_BUCKETS_S: Final = (
    0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0,
)  # fmt: skip

Values = dict[tuple[str, ...], float]


class PoolState(NamedTuple):
    """Connections of a pool: those that somebody uses, those that wait for work, and how many there may be."""

    used: int
    idle: int
    most: int


class QueueState(NamedTuple):
    """What waits in a queue, and how much may."""

    depth: float
    most: float


class Counter:
    """A number that only grows, one for each combination of label values.

    Those of `known` are there from the start: what first appears with its first event has no rate.
    """

    __slots__ = ("description", "labels", "name", "values")

    def __init__(
        self, name: str, description: str, labels: tuple[str, ...] = (), known: Iterable[tuple[str, ...]] = ()
    ) -> None:
        self.name = name
        self.description = description
        self.labels = labels
        self.values: dict[tuple[str, ...], int] = dict.fromkeys(known, 0) if labels else {(): 0}

    def add(self, amount: int = 1, *label_values: str) -> None:
        self.values[label_values] = self.values.get(label_values, 0) + amount

    @property
    def total(self) -> int:
        return sum(self.values.values())

    def observe(self, _: CallbackOptions) -> Iterable[Observation]:
        return [
            Observation(value, dict(zip(self.labels, key, strict=True))) for key, value in list(self.values.items())
        ]


class Level:
    """What was found last by somebody who looks from time to time: one value for each combination of label values.

    `grows`: it is somebody else's counter.
    """

    __slots__ = ("description", "grows", "labels", "name", "values")

    def __init__(self, name: str, description: str, labels: tuple[str, ...] = (), *, grows: bool = False) -> None:
        self.name = name
        self.description = description
        self.labels = labels
        self.grows = grows
        self.values: Values = {}

    def set(self, value: float, *label_values: str) -> None:
        self.values[label_values] = value

    def clear(self) -> None:
        """What is not known any more is not shown."""
        self.values.clear()

    def observe(self, _: CallbackOptions) -> Iterable[Observation]:
        return [
            Observation(value, dict(zip(self.labels, key, strict=True))) for key, value in list(self.values.items())
        ]


class Histogram:
    """Counts of durations in seconds by bucket. Those of one name differ in the values of their labels."""

    __slots__ = ("bounds", "counts", "description", "labels", "name", "sum")

    def __init__(
        self,
        name: str,
        description: str,
        bounds: Sequence[float] = LATENCY_BUCKETS_S,
        labels: Mapping[str, str] | None = None,
    ) -> None:
        self.name = name
        self.description = description
        self.labels = dict(labels or {})
        self.bounds = tuple(bounds)
        self.counts = [0] * (len(self.bounds) + 1)
        self.sum = 0.0

    def record(self, seconds: float, times: int = 1) -> None:
        self.counts[bisect_left(self.bounds, seconds)] += times
        self.sum += seconds * times

    def family(self, prefix: str) -> HistogramMetricFamily:
        """An empty one for all histograms of this name."""
        return HistogramMetricFamily(prefix + self.name, self.description, labels=list(self.labels))

    def add_to(self, family: HistogramMetricFamily) -> None:
        buckets: list[tuple[str, float]] = []
        running = 0
        for bound, count in zip((*self.bounds, float("inf")), list(self.counts), strict=True):
            running += count
            buckets.append(("+Inf" if bound == float("inf") else repr(bound), float(running)))
        family.add_metric(list(self.labels.values()), buckets, self.sum)


class Gauge:
    """A value that is asked for at every scrape: a function from nothing to values by label values.

    `grows`: it is a counter that somebody else keeps.
    """

    __slots__ = ("description", "grows", "labels", "name", "read")

    def __init__(
        self,
        name: str,
        description: str,
        labels: tuple[str, ...],
        read: Callable[[], Values],
        *,
        grows: bool = False,
    ) -> None:
        self.name = name
        self.description = description
        self.labels = labels
        self.read = read
        self.grows = grows

    def observe(self, _: CallbackOptions) -> Iterable[Observation]:
        return [Observation(value, dict(zip(self.labels, key, strict=True))) for key, value in self.read().items()]

"""The metrics of a process: plain numbers that hot paths change, read by OpenTelemetry when Prometheus scrapes.

An OpenTelemetry instrument call costs 10 µs and more, so a hot path adds to an integer here, and an observable
instrument reads it. Histograms are bucket counts shown by a collector of the registry that the exporter uses, because
OpenTelemetry has no observable histogram.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterable, Sequence
from typing import Final

from opentelemetry.exporter.prometheus import PrometheusMetricReader
from opentelemetry.metrics import CallbackOptions, Observation
from opentelemetry.sdk.metrics import MeterProvider
from prometheus_client import REGISTRY, generate_latest
from prometheus_client.core import HistogramMetricFamily
from prometheus_client.exposition import CONTENT_TYPE_LATEST
from prometheus_client.metrics_core import Metric as PrometheusMetric
from prometheus_client.registry import Collector

PREFIX: Final = "iotplatform_"
LATENCY_BUCKETS_S: Final = (
    0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0,
)  # fmt: skip

_SEVERITIES: Final = [(severity,) for severity in ("critical", "major", "minor", "warning", "info")]


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
    """What was found last by somebody who looks from time to time: one value for each combination of label values."""

    __slots__ = ("description", "labels", "name", "values")

    def __init__(self, name: str, description: str, labels: tuple[str, ...]) -> None:
        self.name = name
        self.description = description
        self.labels = labels
        self.values: dict[tuple[str, ...], float] = {}

    def observe(self, _: CallbackOptions) -> Iterable[Observation]:
        return [
            Observation(value, dict(zip(self.labels, key, strict=True))) for key, value in list(self.values.items())
        ]


class Histogram:
    """Counts of durations in seconds by bucket."""

    __slots__ = ("bounds", "counts", "description", "name", "sum")

    def __init__(self, name: str, description: str, bounds: Sequence[float] = LATENCY_BUCKETS_S) -> None:
        self.name = name
        self.description = description
        self.bounds = tuple(bounds)
        self.counts = [0] * (len(self.bounds) + 1)
        self.sum = 0.0

    def record(self, seconds: float, times: int = 1) -> None:
        self.counts[bisect_left(self.bounds, seconds)] += times
        self.sum += seconds * times

    def family(self) -> PrometheusMetric:
        family = HistogramMetricFamily(PREFIX + self.name, self.description)
        buckets: list[tuple[str, float]] = []
        running = 0
        for bound, count in zip((*self.bounds, float("inf")), list(self.counts), strict=True):
            running += count
            buckets.append(("+Inf" if bound == float("inf") else repr(bound), float(running)))
        family.add_metric([], buckets, self.sum)
        return family


class Gauge:
    """A value that is asked for at every scrape: a function from nothing to values by label values."""

    __slots__ = ("description", "labels", "name", "read")

    def __init__(
        self, name: str, description: str, labels: tuple[str, ...], read: Callable[[], dict[tuple[str, ...], float]]
    ) -> None:
        self.name = name
        self.description = description
        self.labels = labels
        self.read = read

    def observe(self, _: CallbackOptions) -> Iterable[Observation]:
        return [Observation(value, dict(zip(self.labels, key, strict=True))) for key, value in self.read().items()]


class Metrics(Collector):
    """Every metric of the process by name. What isn't listed here doesn't exist."""

    def __init__(self) -> None:
        self.readings_accepted = Counter("readings_accepted", "Readings that the stream has acknowledged")
        self.readings_stored = Counter("readings_stored", "Accepted readings that reached the telemetry store")
        self.readings_dead_lettered = Counter(
            "readings_dead_lettered", "Accepted readings that went to the dead letters", ("role",), [("persistence",)]
        )
        self.readings_refused = Counter("readings_refused", "Readings or requests refused at the door", ("reason",))
        self.limit_refusals = Counter("limit_refusals", "Requests refused by a limit", ("scope", "counted"))
        self.limit_leases = Counter("limit_leases", "Batches of tokens of limits asked for", ("answered_by",))
        self.limits_near = Counter("limits_near", "Times that a limit was used to 80 %", ("scope", "counted"))
        self.readings_unused = Counter("readings_unused", "Readings that analysis could not use")
        self.blocks_published = Counter("blocks_published", "Blocks of readings that the stream has acknowledged")
        self.breaches = Counter("breaches", "Readings that met the condition of a rule while no alarm was active")
        self.alarms_raised = Counter("alarms_raised", "Alarms raised", ("severity",), _SEVERITIES)
        self.alarms_cleared = Counter("alarms_cleared", "Alarms cleared", ("severity",), _SEVERITIES)
        self.notifications = Counter("notifications", "Attempts to deliver a notification", ("channel", "outcome"))
        self.commits = Counter("commits", "Commits of a role's position with its effect", ("role",))
        self.reader_resets = Counter("reader_resets", "Readers that went back to their stored position", ("role",))
        self.nats_connections = Counter("nats_connections", "Connections to NATS made, the first one included")
        self.log_lines_left_out = Counter("log_lines_left_out", "Log lines over the bound of their action", ("action",))
        self.ledger_imbalance = Level(
            "ledger_imbalance_readings",
            "Readings by which accepted differs from stored, dead-lettered and in flight; refreshed by persistence",
            ("organization",),
        )
        self.ledger_gaps = Level(
            "ledger_gaps", "Sentences in the ledger's list of gaps; refreshed by persistence", ("organization",)
        )
        self.removals_left = Level(
            "removals_left",
            "Deletions older than half a minute of which something is left in a store; refreshed by persistence",
            ("kind",),
        )
        self.ingest_request = Histogram("ingest_request_seconds", "From a request's arrival to its answer")
        self.reading_to_stored = Histogram("reading_to_stored_seconds", "From a reading's arrival to its commit")
        self.breach_to_notification = Histogram(
            "breach_to_notification_seconds", "From the last breach's arrival to the channel's first answer"
        )
        self._gauges: list[Gauge] = []
        self._provider: MeterProvider | None = None

    def add_gauge(
        self, name: str, description: str, labels: tuple[str, ...], read: Callable[[], dict[tuple[str, ...], float]]
    ) -> None:
        """Only before `expose`."""
        self._gauges.append(Gauge(name, description, labels, read))

    def expose(self) -> None:
        """Register everything with OpenTelemetry and the Prometheus registry. Once in a process."""
        self._provider = MeterProvider(
            metric_readers=[PrometheusMetricReader(disable_target_info=True, scope_info_enabled=False)]
        )
        meter = self._provider.get_meter("iotplatform")
        for counter in vars(self).values():
            if isinstance(counter, Counter):
                meter.create_observable_counter(
                    PREFIX + counter.name, callbacks=[counter.observe], description=counter.description
                )
        for level in vars(self).values():
            if isinstance(level, Level):
                meter.create_observable_gauge(
                    PREFIX + level.name, callbacks=[level.observe], description=level.description
                )
        for gauge in self._gauges:
            meter.create_observable_gauge(PREFIX + gauge.name, callbacks=[gauge.observe], description=gauge.description)
        REGISTRY.register(self)

    def collect(self) -> Iterable[PrometheusMetric]:
        return [item.family() for item in vars(self).values() if isinstance(item, Histogram)]

    def close(self) -> None:
        if self._provider is not None:
            REGISTRY.unregister(self)
            self._provider.shutdown()
            self._provider = None


def render() -> tuple[bytes, str]:
    """The exposition text of everything in the process, and its content type."""
    return generate_latest(REGISTRY), CONTENT_TYPE_LATEST

"""The metrics of a process: plain numbers that hot paths change, read by OpenTelemetry when Prometheus scrapes.

An OpenTelemetry instrument call costs 10 µs and more, so a hot path adds to an integer here, and an observable
instrument reads it. Histograms are bucket counts shown by a collector of the registry that the exporter uses, because
OpenTelemetry has no observable histogram.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Final

from opentelemetry.exporter.prometheus import PrometheusMetricReader
from opentelemetry.sdk.metrics import MeterProvider
from prometheus_client import REGISTRY, generate_latest
from prometheus_client.core import HistogramMetricFamily
from prometheus_client.exposition import CONTENT_TYPE_LATEST
from prometheus_client.metrics_core import Metric as PrometheusMetric
from prometheus_client.registry import Collector

from iotplatform.observability.instruments import Counter, Gauge, Histogram, Level, PoolState, QueueState, Values
from iotplatform.observability.server_metrics import ServerMetrics

if TYPE_CHECKING:  # the exporter takes a tenth of a second to import, and few need it
    from iotplatform.observability.tracing import Tracer

PREFIX: Final = "iotplatform_"
COMMITTING_ROLES: Final = ("analysis", "notification", "persistence")

_SEVERITIES: Final = [(severity,) for severity in ("critical", "major", "minor", "warning", "info")]


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
        self.readings_expired = Counter(
            "readings_expired",
            "Readings removed because they were older than they are kept for; of whole partitions an estimate",
            ("kind",),
            [("row",), ("partition",), ("influx",)],
        )
        self.partitions_dropped = Counter("partitions_dropped", "Partitions of readings that nobody kept any more")
        self.reading_partitions = Level("reading_partitions", "Partitions of readings; refreshed by persistence")
        self.retention_applied = Level(
            "retention_applied_timestamp_seconds", "When everything too old had been removed last; 0: not yet"
        )
        self.ingest_request = Histogram("ingest_request_seconds", "From a request's arrival to its answer")
        self.reading_to_stored = Histogram("reading_to_stored_seconds", "From a reading's arrival to its commit")
        self.breach_to_notification = Histogram(
            "breach_to_notification_seconds", "From the last breach's arrival to the channel's first answer"
        )
        self.stream_ack = Histogram(
            "stream_ack_seconds", "From a block's publishing to the stream's acknowledgement, further tries included"
        )
        self.commit = {
            role: Histogram(
                "commit_seconds", "How long a commit of a role's position with its effect took", labels={"role": role}
            )
            for role in COMMITTING_ROLES
        }
        self.delivery_attempt = Histogram(
            "delivery_attempt_seconds", "How long an attempt to deliver a notification took"
        )
        self.management_request = Histogram(
            "management_request_seconds", "From a request's arrival at the management port to its answer's first byte"
        )
        self.management_requests = Counter(
            "management_requests", "Answers of the management port", ("status",), [("2xx",), ("4xx",), ("5xx",)]
        )
        self.event_loop_delay = Histogram("event_loop_delay_seconds", "How late the event loop woke up, twice a second")
        self.spans_lost = Counter("spans_lost", "Spans of traces that could not be exported")
        # Goes with the metrics to whoever has something to show. None: nobody traces anything.
        self.tracer: Tracer | None = None
        self.servers = ServerMetrics()
        self._gauges: list[Gauge] = []
        self._pools: dict[str, Callable[[], PoolState]] = {}
        self._queues: dict[str, Callable[[], QueueState]] = {}
        self._provider: MeterProvider | None = None

    def add_gauge(
        self, name: str, description: str, labels: tuple[str, ...], read: Callable[[], Values], *, grows: bool = False
    ) -> None:
        """Only before `expose`."""
        self._gauges.append(Gauge(name, description, labels, read, grows=grows))

    def watch_pool(self, name: str, read: Callable[[], PoolState]) -> None:
        self._pools[name] = read

    def watch_queue(self, name: str, read: Callable[[], QueueState]) -> None:
        """Names end in what is counted, such as `lane_bytes`."""
        self._queues[name] = read

    def expose(self) -> None:
        """Register everything with OpenTelemetry and the Prometheus registry. Once in a process."""
        self._provider = MeterProvider(
            metric_readers=[PrometheusMetricReader(disable_target_info=True, scope_info_enabled=False)]
        )
        meter = self._provider.get_meter("iotplatform")
        gauges = [
            Gauge("pool_connections", "Connections of a pool", ("pool", "state"), self._read_pools),
            Gauge("queue_depth", "What waits in a queue, in what its name ends in", ("queue",), self._read_depths),
            Gauge("queue_limit", "What may wait in a queue", ("queue",), self._read_limits),
            *self._gauges,
        ]
        for one in (*vars(self).values(), *self.servers.levels(), *gauges):
            if isinstance(one, Counter) or (isinstance(one, Level | Gauge) and one.grows):
                meter.create_observable_counter(PREFIX + one.name, callbacks=[one.observe], description=one.description)
            elif isinstance(one, Level | Gauge):
                meter.create_observable_gauge(PREFIX + one.name, callbacks=[one.observe], description=one.description)
        REGISTRY.register(self)

    def collect(self) -> Iterable[PrometheusMetric]:
        families: dict[str, HistogramMetricFamily] = {}
        for one in (*vars(self).values(), *self.commit.values()):
            if isinstance(one, Histogram):
                if one.name not in families:
                    families[one.name] = one.family(PREFIX)
                one.add_to(families[one.name])
        return families.values()

    def _read_pools(self) -> Values:
        return {
            (name, state): float(count)
            for name, read in self._pools.items()
            for state, count in read()._asdict().items()
        }

    def _read_depths(self) -> Values:
        return {(name,): float(read().depth) for name, read in self._queues.items()}

    def _read_limits(self) -> Values:
        return {(name,): float(read().most) for name, read in self._queues.items()}

    def close(self) -> None:
        if self._provider is not None:
            REGISTRY.unregister(self)
            self._provider.shutdown()
            self._provider = None


def render() -> tuple[bytes, str]:
    """The exposition text of everything in the process, and its content type."""
    return generate_latest(REGISTRY), CONTENT_TYPE_LATEST

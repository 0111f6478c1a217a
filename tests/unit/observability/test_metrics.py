"""What Prometheus sees."""

from __future__ import annotations

import subprocess

import pytest
from prometheus_client.parser import text_string_to_metric_families

from iotplatform.observability.instruments import Counter, Histogram, Level, PoolState, QueueState
from iotplatform.observability.metrics import Metrics, render
from tests.support.influx import require_program


@pytest.fixture
def metrics():
    made = Metrics()
    yield made
    made.close()


def scraped():
    """Samples by name and labels."""
    text, content_type = render()
    assert content_type.startswith("text/plain")
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(text.decode())
        for sample in family.samples
    }


def value(name, **labels):
    return scraped().get((f"iotplatform_{name}", tuple(sorted(labels.items()))))


def test_counters_end_in_total_and_begin_at_zero(metrics):
    metrics.expose()
    assert value("readings_accepted_total") == 0
    metrics.readings_accepted.add(3)
    metrics.readings_accepted.add()
    assert value("readings_accepted_total") == 4
    assert metrics.readings_accepted.total == 4


def test_a_counter_by_label(metrics):
    metrics.expose()
    metrics.readings_refused.add(2, "invalid")
    metrics.readings_refused.add(1, "over_quota")
    metrics.notifications.add(1, "log", "sent")
    assert value("readings_refused_total", reason="invalid") == 2
    assert value("readings_refused_total", reason="over_quota") == 1
    assert value("notifications_total", channel="log", outcome="sent") == 1
    assert metrics.readings_refused.total == 3


def test_the_names_of_the_contract(metrics):
    for metric in vars(metrics).values():
        if isinstance(metric, Counter) and metric.labels:
            metric.add(1, *("x" for _ in metric.labels))
    metrics.expose()
    names = {name for name, _ in scraped()}
    for name in (
        "readings_accepted_total",
        "readings_stored_total",
        "readings_dead_lettered_total",
        "readings_refused_total",
        "alarms_raised_total",
        "notifications_total",
        "ingest_request_seconds_bucket",
        "reading_to_stored_seconds_bucket",
        "breach_to_notification_seconds_bucket",
    ):
        assert f"iotplatform_{name}" in names


def test_a_gauge_is_asked_at_every_scrape(metrics):
    lag = {"analysis": 5.0}
    metrics.add_gauge("consumer_lag_messages", "Waiting", ("role",), lambda: {(role,): n for role, n in lag.items()})
    metrics.expose()
    assert value("consumer_lag_messages", role="analysis") == 5
    lag.update(analysis=2.5, persistence=1.0)
    assert value("consumer_lag_messages", role="analysis") == 2.5
    assert value("consumer_lag_messages", role="persistence") == 1


class TestHistogram:
    def buckets(self, name):
        found = {
            dict(labels)["le"]: number for (sample, labels), number in scraped().items() if sample == f"{name}_bucket"
        }
        return {float(bound): number for bound, number in found.items()}

    def test_buckets_add_up(self, metrics):
        metrics.expose()
        for seconds in (0.0, 0.001, 0.0011, 0.3, 1_000.0):
            metrics.ingest_request.record(seconds)
        found = self.buckets("iotplatform_ingest_request_seconds")
        assert found[0.001] == 2  # a bound belongs to its bucket
        assert found[0.0025] == 3
        assert found[0.25] == 3
        assert found[0.5] == 4
        assert found[300.0] == 4
        assert found[float("inf")] == 5
        assert [found[bound] for bound in sorted(found)] == sorted(found.values())
        assert value("ingest_request_seconds_count") == 5
        assert value("ingest_request_seconds_sum") == pytest.approx(1_000.3021)

    def test_many_of_the_same_at_once(self, metrics):
        metrics.expose()
        metrics.reading_to_stored.record(0.02, 1_000)
        assert value("reading_to_stored_seconds_count") == 1_000
        assert value("reading_to_stored_seconds_sum") == pytest.approx(20.0)
        assert self.buckets("iotplatform_reading_to_stored_seconds")[0.025] == 1_000

    def test_bounds_of_ones_own(self):
        histogram = Histogram("x", "X", (1.0, 2.0))
        for seconds in (0.5, 1.5, 2.0, 2.5):
            histogram.record(seconds)
        assert histogram.counts == [1, 2, 1]


def test_a_second_exposition_after_closing(metrics):
    metrics.expose()
    metrics.close()
    assert value("ingest_request_seconds_count") is None
    metrics.close()
    again = Metrics()
    again.expose()
    assert value("readings_accepted_total") == 0
    again.close()


def test_histograms_of_one_name_differ_by_label(metrics):
    metrics.expose()
    metrics.commit["analysis"].record(0.2)
    metrics.commit["persistence"].record(0.3, 2)
    assert value("commit_seconds_count", role="analysis") == 1
    assert value("commit_seconds_count", role="persistence") == 2
    assert value("commit_seconds_count", role="notification") == 0
    assert value("commit_seconds_bucket", role="persistence", le="0.5") == 2


def test_pools_and_queues(metrics):
    metrics.watch_pool("postgres", lambda: PoolState(used=3, idle=1, most=10))
    metrics.watch_queue("lane_bytes", lambda: QueueState(5, 100))
    metrics.expose()
    assert [value("pool_connections", pool="postgres", state=state) for state in ("used", "idle", "most")] == [3, 1, 10]
    assert value("queue_depth", queue="lane_bytes") == 5
    assert value("queue_limit", queue="lane_bytes") == 100


def test_what_is_known_no_longer_of_a_server_is_not_shown(metrics):
    metrics.expose()
    servers = metrics.servers
    servers.server_up.set(1, "redis")
    servers.redis_keys.set(5)
    servers.redis_commands.set(7)
    servers.postgres_database.set(9)
    assert (value("redis_keys"), value("redis_commands_total")) == (5, 7)
    servers.server_up.set(0, "redis")
    servers.forget("redis")
    assert (value("redis_keys"), value("redis_commands_total")) == (None, None)
    assert (value("server_up", server="redis"), value("postgres_database_bytes")) == (0, 9)


def test_prometheus_s_own_tool_finds_no_fault_in_names_and_descriptions(metrics):
    promtool = require_program("promtool", "prometheus")
    for metric in (*vars(metrics).values(), *metrics.servers.levels()):
        if isinstance(metric, Counter) and metric.labels:
            metric.add(1, *("x" for _ in metric.labels))
        elif isinstance(metric, Level):
            metric.set(1, *("x" for _ in metric.labels))
    metrics.expose()
    text, _ = render()
    ran = subprocess.run([promtool, "check", "metrics"], input=text, capture_output=True, check=False)
    assert (ran.returncode, ran.stdout, ran.stderr) == (0, b"", b"")

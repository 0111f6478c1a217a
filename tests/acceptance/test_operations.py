"""The operations port, and the log."""

from __future__ import annotations

import re
import signal
import subprocess
from pathlib import Path

from prometheus_client.parser import text_string_to_metric_families

from tests.support.influx import require_program
from tests.support.platform import Platform

PROMISED = {
    "iotplatform_readings_accepted": "counter",
    "iotplatform_readings_stored": "counter",
    "iotplatform_readings_dead_lettered": "counter",
    "iotplatform_readings_refused": "counter",
    "iotplatform_alarms_raised": "counter",
    "iotplatform_notifications": "counter",
    "iotplatform_consumer_lag_messages": "gauge",
    "iotplatform_consumer_lag_seconds": "gauge",
    "iotplatform_partitions_held": "gauge",
    "iotplatform_ingest_request_seconds": "histogram",
    "iotplatform_reading_to_stored_seconds": "histogram",
    "iotplatform_breach_to_notification_seconds": "histogram",
    "iotplatform_consumer_pending_messages": "gauge",
    "iotplatform_consumer_unacknowledged_messages": "gauge",
    "iotplatform_pool_connections": "gauge",
    "iotplatform_queue_depth": "gauge",
    "iotplatform_queue_limit": "gauge",
    "iotplatform_event_loop_lag_seconds": "gauge",
    "iotplatform_event_loop_delay_seconds": "histogram",
    "iotplatform_stream_ack_seconds": "histogram",
    "iotplatform_commit_seconds": "histogram",
    "iotplatform_delivery_attempt_seconds": "histogram",
    "iotplatform_management_request_seconds": "histogram",
    "iotplatform_server_up": "gauge",
    "iotplatform_jetstream_storage_bytes": "gauge",
    "iotplatform_stream_bytes": "gauge",
    "iotplatform_postgres_connections": "gauge",
    "iotplatform_postgres_transactions": "counter",
    "iotplatform_redis_memory_bytes": "gauge",
    "iotplatform_deliveries_waiting": "gauge",
    "iotplatform_embedded_restarts": "counter",
    "iotplatform_build_info": "gauge",
    "process_start_time_seconds": "gauge",
}
READING = {"organization_id": "metrics", "device_id": "m", "sensor_name": "temp", "value": 99.0}


async def test_metrics_tell_what_happened(platform: Platform) -> None:
    async with platform.client() as management, platform.client("ingest") as ingest:
        await management.post("/organizations", json={"id": "metrics", "name": "Metrics"})
        before = len(platform.lines)
        for _ in range(3):
            assert (await ingest.post("/ingest", json=READING)).status_code == 202
        assert (await ingest.post("/ingest", json={})).status_code == 422
        await platform.log("notification.sent", after=before, where=lambda line: line["organization"] == "metrics")
        await platform.log("persistence.stored", after=before, where=lambda line: line["position"] == 3)

    async with platform.client("operations") as operations:
        text = (await operations.get("/metrics")).text
    families = {family.name: family for family in text_string_to_metric_families(text)}
    promtool = require_program("promtool", "prometheus")
    checked = subprocess.run([promtool, "check", "metrics"], input=text, text=True, capture_output=True, check=False)
    assert (checked.returncode, checked.stdout, checked.stderr) == (0, "", "")

    assert {name: families[name].type for name in PROMISED if name in families} == {
        name: kind
        for name, kind in PROMISED.items()
        # A counter with labels shows once there is something to count.
        if name != "iotplatform_readings_dead_lettered" or name in families
    }
    values = {sample.name: sample.value for family in families.values() for sample in family.samples}
    assert values["iotplatform_readings_accepted_total"] >= 3
    assert values["iotplatform_breach_to_notification_seconds_count"] >= 1
    refused = [
        sample.labels for sample in families["iotplatform_readings_refused"].samples if sample.name.endswith("_total")
    ]
    assert {"reason": "invalid"} in refused
    for name, family in families.items():
        if name.startswith("iotplatform_"):
            labels = {label for sample in family.samples for label in sample.labels}
            if name.startswith("iotplatform_ledger_"):
                # Where an operator needs to know which organization it is.
                labels.discard("organization")
            known = {
                "role",
                "reason",
                "severity",
                "channel",
                "outcome",
                "action",
                "le",
                "scope",
                "counted",
                "answered_by",
                "version",
                "state",
                "kind",
                "status",
                "pool",
                "queue",
                "server",
                "stream",
                "source",
                "what",
                "listener",
            }
            assert labels <= known, name


async def test_a_process_with_one_role_is_watched_like_any_other(platform: Platform, tmp_path: Path) -> None:
    urls = {f"{name}__url": platform.urls[name] for name in ("nats", "postgres", "redis")}
    single = await Platform.start(tmp_path / "data", "--roles=ingest", **urls)
    try:
        assert single.urls["management"] is None
        assert single.urls["mqtt"] is None
        async with single.client("operations") as operations:
            for path in ("/livez", "/readyz", "/metrics", "/schema/openapi.json"):
                assert (await operations.get(path)).status_code == 200, path
            assert (await operations.get("/elsewhere")).headers["Content-Type"] == "application/problem+json"
        for number, level in ((signal.SIGUSR1, "debug"), (signal.SIGUSR2, "info")):
            before = len(single.lines)
            single.process.send_signal(number)
            assert (await single.log("log.level_changed", after=before))["log_level"] == level
    finally:
        assert await single.stop() == 0


async def test_a_log_line_is_an_object_with_time_level_role_and_action(platform: Platform) -> None:
    for line in platform.lines:
        assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z", line["ts"])
        assert line["level"] in {"info", "warning", "error"}
        assert line["role"]
        assert re.fullmatch(r"[a-z]+\.[a-z_]+", line["action"])


async def test_every_port_describes_itself(platform: Platform) -> None:
    for port, path in (("ingest", "/ingest"), ("management", "/organizations"), ("operations", "/readyz")):
        async with platform.client(port) as client:
            document = (await client.get("/schema/openapi.json")).json()
            # A page that has its name lead here is told nothing.
            rebound = await client.get("/schema/openapi.json", headers={"Host": "rebound.example"})
            assert (rebound.status_code, rebound.json()["type"].rpartition(":")[2]) == (421, "misdirected")
        assert document["openapi"].startswith("3.1")
        assert path in document["paths"]


async def test_what_holds_credentials_is_private(platform: Platform) -> None:
    assert (platform.data_dir / "runtime.json").stat().st_mode & 0o077 == 0

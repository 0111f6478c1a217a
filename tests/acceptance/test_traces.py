"""Requests and messages followed from the door to their row and notification, by what a collector gets.

Half of what nobody asks a trace of is picked.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import secrets
from collections.abc import AsyncIterator
from typing import Any

import asyncpg
import httpx
import nats
import pytest
from nats.js.errors import APIError

from tests.support.collector import Collector
from tests.support.mqtt import device
from tests.support.platform import Platform, eventually

READING = {"organization_id": "traced", "device_id": "press", "sensor_name": "temp1", "value": 99.0}


@pytest.fixture(scope="module")
async def collector() -> AsyncIterator[Collector]:
    running = Collector()
    await running.start()
    yield running
    await running.stop()


@pytest.fixture(scope="module")
async def tracing(collector: Collector, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Platform]:
    running = await Platform.start(
        tmp_path_factory.mktemp("traces") / "data", otlp__endpoint=collector.url, otlp__ratio="0.5"
    )
    async with running.client() as management:
        await management.post("/organizations", json={"id": "traced", "name": "Traced"})
    yield running
    assert await running.stop() == 0, running.tail()


def traceparent(*, sampled: bool = True) -> tuple[str, dict[str, str]]:
    trace = secrets.token_hex(16)
    return trace, {"traceparent": f"00-{trace}-{secrets.token_hex(8)}-0{int(sampled)}"}


async def spans_of(collector: Collector, trace: str, names: set[str]) -> dict[str, dict[str, Any]]:
    async def all_there() -> Any:
        found = {span["name"]: span for span in collector.spans if span["trace"] == trace}
        return found if names <= found.keys() else None

    found: dict[str, dict[str, Any]] = await eventually(all_there)
    return found


@contextlib.asynccontextmanager
async def nats_client(platform: Platform) -> AsyncIterator[nats.NATS]:
    client = await nats.connect(platform.urls["nats"], allow_reconnect=False)
    try:
        yield client
    finally:
        await client.close()


async def send(ingest: httpx.AsyncClient, headers: dict[str, str]) -> None:
    answer = await ingest.post("/ingest", json=READING, headers=headers)
    assert (answer.status_code, answer.json()) == (202, {"status": "accepted", "accepted": 1})


async def test_a_request_is_followed_to_its_row_and_its_notification(tracing: Platform, collector: Collector) -> None:
    async with tracing.client("ingest") as ingest:
        for _ in range(2):
            await send(ingest, {})
        trace, headers = traceparent()
        await send(ingest, headers)
    names = {"ingest request", "block publish", "block analysis", "block commit", "notification delivery"}
    found = await spans_of(collector, trace, names)
    assert found["ingest request"]["attributes"] == {"protocol": "http"}
    assert found["ingest request"]["parent"] == headers["traceparent"][36:52]
    assert found["block publish"]["parent"] == found["ingest request"]["id"]
    assert found["block analysis"]["parent"] == found["block publish"]["id"]
    assert found["block commit"]["parent"] == found["block publish"]["id"]
    assert found["notification delivery"]["parent"] == found["block analysis"]["id"]
    assert all(span["took_ns"] > 0 and not span["error"] for span in found.values())

    # The log says which trace a line belongs to.
    raised = await tracing.log("analysis.alarm_raised", where=lambda line: line["organization"] == "traced")
    assert raised["trace_id"] == trace
    sent = await tracing.log("notification.sent", where=lambda line: line["organization"] == "traced")
    assert sent["trace_id"] == trace
    await tracing.log("ingest.published", where=lambda line: line.get("trace_id") == trace)
    await tracing.log("persistence.stored", where=lambda line: trace in line.get("trace_ids", ()))


async def test_requests_by_nats_carry_their_trace(tracing: Platform, collector: Collector) -> None:
    trace, headers = traceparent()
    unwanted, refused_headers = traceparent(sampled=False)
    bad, bad_headers = traceparent()
    body = json.dumps({"sensor_name": "flow", "value": 1.5}).encode()
    async with nats_client(tracing) as client:
        js = client.jetstream()
        await js.publish("intake.traced.pump", body, headers=refused_headers)
        # As some clients write it.
        await js.publish("intake.traced.pump", body, headers={"Traceparent": headers["traceparent"]})
        with pytest.raises(APIError):
            await js.publish("intake.traced.pump", b"no json", headers=bad_headers)
    found = await spans_of(collector, trace, {"ingest request", "block publish", "block analysis", "block commit"})
    assert found["ingest request"]["parent"] == headers["traceparent"][36:52]
    assert found["ingest request"]["attributes"] == {"protocol": "nats"}
    assert found["block commit"]["parent"] == found["block publish"]["id"]
    await tracing.log("ingest.published", where=lambda line: line.get("trace_id") == trace)
    # What is refused has nothing but its request, with the reason.
    assert "not JSON" in (await spans_of(collector, bad, {"ingest request"}))["ingest request"]["error"]
    assert {span["name"] for span in collector.spans if span["trace"] == bad} == {"ingest request"}
    assert [span for span in collector.spans if span["trace"] == unwanted] == []


async def test_line_protocol_carries_its_trace(tracing: Platform, collector: Collector) -> None:
    trace, headers = traceparent()
    async with tracing.client("ingest") as ingest:
        answer = await ingest.post("/api/v2/write?org=traced", content="weather,host=mast wind=4.5", headers=headers)
        assert answer.status_code == 204
        bad, bad_headers = traceparent()
        answer = await ingest.post("/api/v2/write?org=nobody", content="weather wind=4.5", headers=bad_headers)
        assert answer.status_code == 404
    found = await spans_of(collector, trace, {"ingest request", "block publish", "block analysis", "block commit"})
    assert found["ingest request"]["parent"] == headers["traceparent"][36:52]
    assert found["ingest request"]["attributes"] == {"protocol": "line protocol"}
    assert (await spans_of(collector, bad, {"ingest request"}))["ingest request"]["error"]


@pytest.mark.parametrize("qos", [1, 0])
async def test_messages_of_mqtt_that_are_picked_are_followed(tracing: Platform, collector: Collector, qos: int) -> None:
    """By share only: MQTT 3.1.1 carries no context. 20 alarms, so that one is raised by a message that was picked."""
    names = {"mqtt message", "block publish", "block analysis", "block commit", "notification delivery"}
    async with device(tracing, "traced", f"mast-{qos}") as mast:
        for number in range(20):
            topic = f"iot/traced/mast-{qos}-{number}/telemetry"
            for _ in range(3):
                await mast.publish(topic, json.dumps({"temp1": 99.0}), qos=qos)

    async def one_followed() -> Any:
        for root in [span for span in collector.spans if span["attributes"].get("qos") == str(qos)]:
            found = {span["name"]: span for span in collector.spans if span["trace"] == root["trace"]}
            if names <= found.keys():
                return found
        return None

    found = await eventually(one_followed)
    assert found["mqtt message"]["parent"] == ""
    assert found["block publish"]["parent"] == found["mqtt message"]["id"]
    assert found["block commit"]["parent"] == found["block analysis"]["parent"] == found["block publish"]["id"]
    assert found["notification delivery"]["parent"] == found["block analysis"]["id"]
    # From where nats-server took it.
    assert found["mqtt message"]["took_ns"] >= found["block publish"]["took_ns"] > 0
    trace = found["mqtt message"]["trace"]
    await tracing.log(
        "ingest.published", where=lambda line: trace in (line.get("trace_id"), *line.get("trace_ids", ()))
    )


async def test_a_share_of_what_nobody_asks_a_trace_of_is_traced(tracing: Platform, collector: Collector) -> None:
    """At 0.5, of 100 one after the other: fewer than 20 or more than 80 come once in a thousand million."""
    before = len(collector.spans)
    async with tracing.client("ingest") as ingest:
        for _ in range(100):
            await send(ingest, {})
        trace, headers = traceparent()
        await send(ingest, headers)
    # Spans are exported in the order in which they end.
    await spans_of(collector, trace, {"ingest request"})
    picked = [span for span in collector.spans[before:] if span["name"] == "ingest request" and not span["parent"]]
    assert 20 <= len(picked) <= 80
    assert len({span["trace"] for span in picked}) == len(picked)


async def test_a_commit_that_fails_leaves_its_error(tracing: Platform, collector: Collector) -> None:
    """PostgreSQL says that it can not now, until it can."""
    database = await asyncpg.connect(tracing.urls["postgres"])
    try:
        await database.execute(
            "CREATE FUNCTION not_now() RETURNS trigger LANGUAGE plpgsql AS "
            "$$BEGIN RAISE EXCEPTION 'not now' USING ERRCODE = '57P03'; END$$;"
            "CREATE TRIGGER not_now BEFORE INSERT ON readings FOR EACH ROW EXECUTE FUNCTION not_now()"
        )
        trace, headers = traceparent()
        async with tracing.client("ingest") as ingest:
            await send(ingest, headers)
        failed = (await spans_of(collector, trace, {"block commit"}))["block commit"]
        assert failed["error"].startswith("Unavailable: ")
    finally:
        await database.execute("DROP FUNCTION not_now CASCADE")
        await database.close()
    await tracing.log("persistence.stored", where=lambda line: trace in line.get("trace_ids", ()))

    async def commits() -> Any:
        found = [span for span in collector.spans if span["trace"] == trace and span["name"] == "block commit"]
        return found if len(found) > 1 else None

    first, last = await eventually(commits)
    assert (first["id"], first["attributes"]) == (failed["id"], {"again": False})
    assert (last["error"], last["attributes"]) == ("", {"again": True})


async def test_requests_that_share_a_block_are_linked_to_it(tracing: Platform, collector: Collector) -> None:
    given = [traceparent() for _ in range(30)]
    async with tracing.client("ingest") as ingest:
        await asyncio.gather(*(send(ingest, headers) for _, headers in given))
    traces = {trace for trace, _ in given}

    async def all_found() -> Any:
        blocks = [span for span in collector.spans if span["name"] == "block publish"]
        return traces <= {trace for span in blocks for trace in (span["trace"], *span["links"])}

    await eventually(all_found)
    blocks = [span for span in collector.spans if span["name"] == "block publish" and span["trace"] in traces]
    assert len(blocks) < len(given)
    assert all(len(span["links"]) <= 32 for span in blocks)


async def test_what_nobody_wants_to_trace_is_not_traced(tracing: Platform, collector: Collector) -> None:
    trace, headers = traceparent(sampled=False)
    async with tracing.client("ingest") as ingest:
        await send(ingest, headers)
        for wrong in ("", "00-0-0-01", "00-" + "0" * 32 + "-" + "0" * 16 + "-01", "x" * 5_000):
            await send(ingest, {"traceparent": wrong})
        after, headers = traceparent()
        await send(ingest, headers)
    await spans_of(collector, after, {"ingest request"})
    assert [span for span in collector.spans if span["trace"] == trace] == []
    assert "0" * 32 not in {span["trace"] for span in collector.spans}


async def test_a_collector_that_is_away_stops_nothing(tracing: Platform, collector: Collector) -> None:
    await collector.stop()
    async with tracing.client("ingest") as ingest, tracing.client("operations") as operations:

        async def said() -> Any:
            await send(ingest, traceparent()[1])
            return [line for line in tracing.lines if line["action"] == "traces.not_exported"]

        await eventually(said)
        for _ in range(20):
            await send(ingest, traceparent()[1])

        async def counted() -> Any:
            return "iotplatform_spans_lost_total 0.0" not in (await operations.get("/metrics")).text

        await eventually(counted)
    assert len([line for line in tracing.lines if line["action"] == "traces.not_exported"]) == 1
    await collector.start()
    trace, headers = traceparent()
    async with tracing.client("ingest") as ingest:
        await send(ingest, headers)
    await spans_of(collector, trace, {"ingest request", "block publish"})
    await tracing.log("traces.exported_again")
    noise = [line for line in tracing.lines if line["action"] == "library.log" or line["level"] == "error"]
    assert not noise, str(noise[0])

"""One request followed from the door to its row and its notification, by what a collector gets."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest

from tests.support.collector import Collector
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
        tmp_path_factory.mktemp("traces") / "data", otlp__endpoint=collector.url, otlp__ratio="0"
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
    stored = await tracing.log("persistence.stored", where=lambda line: "trace_ids" in line)
    assert stored["trace_ids"] == [trace]


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
    """The last one: it does not come back."""
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
    noise = [line for line in tracing.lines if line["action"] == "library.log" or line["level"] == "error"]
    assert not noise, str(noise[0])

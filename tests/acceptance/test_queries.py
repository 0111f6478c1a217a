"""Queries over a running platform: what was ingested comes back computed, and what breaks a bound never looks whole."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator

import httpx
import pytest

from tests.support.platform import Platform, eventually

READINGS = 5_000
START = 1_700_000_040
PATH = "/organizations/history/telemetry"


@pytest.fixture(scope="module")
async def filled(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Platform]:
    running = await Platform.start(tmp_path_factory.mktemp("queries") / "data", query__max_rows="3000")
    async with running.client() as client, running.client("ingest") as door:
        assert (await client.post("/organizations", json={"id": "history", "name": "x"})).status_code == 201
        readings = [
            {
                "organization_id": "history",
                "device_id": "d",
                "sensor_name": "s",
                "value": float(at % 60),
                "timestamp": START + at,
            }
            for at in range(READINGS)
        ]
        assert (await door.post("/ingest", json=readings)).status_code == 202

        async def stored() -> bool:
            items = (await client.get(PATH, params={"aggregate": "count"})).json()["items"]
            return bool(items) and items[0]["value"] == READINGS

        await eventually(stored)
    yield running
    assert await running.stop() == 0, running.tail()


async def test_minutes_and_points(filled: Platform) -> None:
    async with filled.client() as client:
        asked = {"aggregate": "avg", "interval": "1m", "from": START, "to": START + 3_600}
        items = (await client.get(PATH, params=asked)).json()["items"]
        assert [item["value"] for item in items] == [29.5] * 60
        assert items[0] == {"device_id": "d", "sensor": "s", "timestamp": "2023-11-14T22:14:00.000000Z", "value": 29.5}
        points = (await client.get(PATH, params={"points": 500})).json()
        assert len(points["items"]) == 500
        assert points["next_cursor"] is None


async def receive(client: httpx.AsyncClient, kind: str, received: bytearray) -> None:
    async with client.stream("GET", PATH, headers={"accept": kind}) as answer:
        assert answer.status_code == 200
        async for part in answer.aiter_bytes():
            received += part


@pytest.mark.parametrize("kind", ["application/x-ndjson", "text/csv"])
async def test_a_stream_that_breaks_a_bound_has_no_end(filled: Platform, kind: str) -> None:
    received = bytearray()
    async with filled.client() as client:
        with pytest.raises(httpx.RemoteProtocolError, match="incomplete"):
            await receive(client, kind, received)
        if kind == "application/x-ndjson":
            assert "query.max_rows" in json.loads(received.splitlines()[-1])["error"]["detail"]
        # Nothing is left of it: the next one is answered.
        shorter = await client.get(PATH, params={"to": START + 2_500}, headers={"accept": kind})
        assert len(shorter.content.splitlines()) == 2_500 + (kind == "text/csv")

"""A running platform refuses what is over a limit, on both ways through its door, and within moments of the change."""

from __future__ import annotations

import asyncio
import json
import uuid
from typing import Any

import httpx
import nats
import pytest

from tests.support.platform import Platform, eventually


@pytest.fixture
async def org(platform: Platform) -> str:
    name = f"limited-{uuid.uuid4().hex[:8]}"
    async with platform.client() as client:
        assert (await client.put(f"/organizations/{name}", json={"name": "L"})).status_code == 201
    return name


def reading(org: str, device: str = "d") -> dict[str, Any]:
    return {"organization_id": org, "device_id": device, "sensor_name": "s", "value": 1.0}


async def limit(platform: Platform, org: str, **limits: Any) -> None:
    async with platform.client() as client:
        answer = await client.put(f"/organizations/{org}/limits", json=limits)
        assert answer.status_code == 200, answer.text


async def send(client: httpx.AsyncClient, body: Any, **headers: str) -> httpx.Response:
    return await client.post("/ingest", json=body, headers=headers)


@pytest.mark.parametrize("headers", [{}, {"Prefer": "x"}], ids=["the short way", "the ordinary way"])
async def test_over_a_limit(platform: Platform, org: str, headers: dict[str, str]) -> None:
    await limit(platform, org, requests="1000:1,20:3600")
    async with platform.client("ingest") as client:
        answers = await asyncio.gather(*(send(client, reading(org), **headers) for _ in range(50)))
        assert [answer.status_code for answer in answers].count(202) == 20
        refused = await send(client, reading(org), **headers)
    assert refused.status_code == 429
    assert 1 < int(refused.headers["retry-after"]) <= 180
    assert refused.headers["ratelimit-policy"] == '"requests-1s";q=1000;w=1, "requests-3600s";q=20;w=3600'
    assert refused.headers["ratelimit"].startswith('"requests-3600s";r=0;t=')
    assert refused.json()["type"] == "urn:iotplatform:problem:over_quota"
    # Nothing of what was refused is stored, and the ledger knows of it.
    async with platform.client() as client:

        async def counted() -> bool:
            entry = (await client.get(f"/organizations/{org}/ledger")).json()
            return bool(entry["balanced"] and entry["refused"] >= 31)

        await eventually(counted)
    await limit(platform, org)
    async with platform.client("ingest") as client:
        assert (await send(client, reading(org), **headers)).status_code == 202


async def test_readings_and_devices(platform: Platform, org: str) -> None:
    await limit(platform, org, readings="50:3600", device_requests="3:3600")
    async with platform.client("ingest") as client:
        assert (await send(client, [reading(org)] * 51)).status_code == 413
        assert [(await send(client, reading(org, "a"))).status_code for _ in range(4)] == [202, 202, 202, 429]
        assert (await send(client, [reading(org, "b")] * 47)).status_code == 202
        assert (await send(client, reading(org, "c"))).status_code == 429
    await limit(platform, org)


async def test_the_size_of_the_stream(platform: Platform, org: str) -> None:
    client = await nats.connect(platform.urls["nats"])

    async def size() -> int:
        answer = json.loads((await client.request(f"$JS.API.STREAM.INFO.ORG_{org}")).data)
        return int(answer["config"]["max_bytes"])

    before = await size()
    await limit(platform, org, stream_bytes=1 << 22)
    assert await size() == 1 << 22
    await limit(platform, org)
    assert await size() == before
    await client.close()

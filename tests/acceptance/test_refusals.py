"""What is refused, with which status, and that nothing of it is stored."""

from __future__ import annotations

import asyncio
import json
import time
import uuid
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest

from tests.support.platform import Platform, eventually

GOOD = {"device_id": "pump", "sensor_name": "pressure", "value": 1.0, "timestamp": 1}
JSON = {"Content-Type": "application/json"}


@pytest.fixture(scope="module")
async def organization(platform: Platform) -> AsyncIterator[str]:
    name = f"refused{uuid.uuid4().hex[:8]}"
    async with platform.client() as client:
        assert (await client.post("/organizations", json={"id": name, "name": name})).status_code == 201
        yield name
        ledger = (await client.get(f"/organizations/{name}/ledger")).json()
        assert (ledger["accepted"], ledger["stored"], ledger["in_flight"]) == (0, 0, 0), (
            "a part of a refusal was stored"
        )


@pytest.fixture(scope="module")
async def ingest(platform: Platform) -> AsyncIterator[httpx.AsyncClient]:
    async with platform.client("ingest") as client:
        yield client


def problem(answer: httpx.Response, status: int) -> dict[str, Any]:
    assert answer.status_code == status, answer.text
    assert answer.headers["Content-Type"] == "application/problem+json"
    document: dict[str, Any] = answer.json()
    assert document["status"] == status
    assert document["type"]
    assert document["title"]
    assert document["detail"]
    return document


@pytest.mark.parametrize(
    ("change", "field"),
    [
        pytest.param({"value": None}, "value", id="null"),
        pytest.param({"value": {"a": 1}}, "value", id="nested value"),
        pytest.param({"value": "x" * 257}, "value", id="long text"),
        pytest.param({"value": "a\x00b"}, "value", id="NUL in text"),
        pytest.param({"sensor_name": ""}, "sensor_name", id="empty sensor"),
        pytest.param({"sensor_name": "a\nb"}, "sensor_name", id="line end in sensor"),
        pytest.param({"sensor_name": "x" * 513}, "sensor_name", id="long sensor"),
        pytest.param({"sensor_name": 7}, "sensor_name", id="sensor of a wrong type"),
        pytest.param({"device_id": "a.b"}, "device_id", id="dot in device"),
        pytest.param({"device_id": "a*"}, "device_id", id="star in device"),
        pytest.param({"device_id": ">"}, "device_id", id="wildcard device"),
        pytest.param({"device_id": "a b"}, "device_id", id="space in device"),
        pytest.param({"device_id": "a\n"}, "device_id", id="line end in device"),
        pytest.param({"device_id": "ä"}, "device_id", id="umlaut in device"),
        pytest.param({"device_id": "x" * 65}, "device_id", id="long device"),
        pytest.param({"device_id": None}, "device_id", id="no device"),
        pytest.param({"organization_id": "a.b"}, "organization_id", id="dot in organization"),
        pytest.param({"timestamp": "yesterday"}, "timestamp", id="no time"),
        pytest.param({"timestamp": ""}, "timestamp", id="empty time"),
        pytest.param({"timestamp": "2026-01-01T00:00:00"}, "timestamp", id="time without zone"),
        pytest.param({"timestamp": -1}, "timestamp", id="before 1970"),
        pytest.param({"timestamp": True}, "timestamp", id="boolean time"),
        pytest.param({"timestamp": int(time.time()) + 25 * 3600}, "timestamp", id="25 hours ahead"),
        pytest.param({"timestamp": 10**30}, "timestamp", id="huge time"),
        pytest.param({"unit": "bar"}, "unit", id="unknown field"),
    ],
)
async def test_a_field_that_is_wrong_is_named(
    change: dict[str, Any], field: str, organization: str, ingest: httpx.AsyncClient
) -> None:
    body = {"organization_id": organization, **GOOD, **change}

    alone = problem(await ingest.post("/ingest", json=body), 422)
    among = problem(await ingest.post("/ingest", json=[{"organization_id": organization, **GOOD}, body]), 422)

    assert field in [fault.get("field") for fault in alone["errors"]]
    assert (1, field) in [(fault.get("index"), fault.get("field")) for fault in among["errors"]]


@pytest.mark.parametrize("missing", ["organization_id", "device_id", "sensor_name", "value"])
async def test_a_missing_field_is_named(missing: str, organization: str, ingest: httpx.AsyncClient) -> None:
    body = {"organization_id": organization, **GOOD}
    del body[missing]

    assert missing in [fault.get("field") for fault in problem(await ingest.post("/ingest", json=body), 422)["errors"]]


@pytest.mark.parametrize(
    ("body", "status"),
    [
        pytest.param(b"", 400, id="nothing"),
        pytest.param(b"{", 400, id="half an object"),
        pytest.param(b"\xff\xfe", 400, id="not UTF-8"),
        pytest.param(b"[" * 100_000, 400, id="nested deeply"),
        pytest.param(b'{"organization_id":"x","device_id":"p","sensor_name":"s","value":NaN}', 400, id="NaN"),
        pytest.param(b'{"organization_id":"x","device_id":"p","sensor_name":"s","value":Infinity}', 400, id="infinity"),
        pytest.param(b'{"organization_id":"x","device_id":"p","sensor_name":"s","value":1e400}', 422, id="1e400"),
        pytest.param(b"[]", 422, id="no reading"),
        pytest.param(b"7", 422, id="a number"),
        pytest.param(b"null", 422, id="null"),
        pytest.param(b'{"organization_id":"nobody","device_id":"p","sensor_name":"s","value":1}', 404, id="unknown"),
        pytest.param(b" " * ((1 << 20) + 1), 413, id="over a mebibyte"),
    ],
)
async def test_a_body_that_is_wrong(body: bytes, status: int, ingest: httpx.AsyncClient) -> None:
    problem(await ingest.post("/ingest", content=body, headers=JSON), status)


async def test_a_body_that_never_says_how_long_it_is_is_bounded_too(ingest: httpx.AsyncClient) -> None:
    async def endless() -> AsyncIterator[bytes]:
        for _ in range(64):
            yield b" " * 65_536

    problem(await ingest.post("/ingest", content=endless(), headers=JSON), 413)


async def test_one_organization_a_request(organization: str, ingest: httpx.AsyncClient) -> None:
    other = {"organization_id": "other", **GOOD}

    document = problem(await ingest.post("/ingest", json=[{"organization_id": organization, **GOOD}, other]), 422)

    assert document["errors"][0]["index"] == 1


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        pytest.param({"Content-Type": "text/csv"}, 415, id="type"),
        pytest.param({"Content-Encoding": "br"}, 415, id="encoding"),
        pytest.param({"Content-Encoding": "gzip"}, 400, id="no gzip"),
        pytest.param({"Accept": "text/html"}, 406, id="accept"),
        pytest.param({"Idempotency-Key": "x" * 65}, 422, id="long idempotency key"),
        pytest.param({"Host": "evil.example"}, 421, id="host"),
        pytest.param({"Authorization": "Bearer nonsense"}, 401, id="token"),
        pytest.param({"Authorization": "Basic YTpi"}, 401, id="scheme"),
        pytest.param({"Authorization": "Bearer " + "x" * 60_000}, 401, id="long token"),
    ],
)
async def test_a_header_that_is_wrong(
    headers: dict[str, str], status: int, organization: str, ingest: httpx.AsyncClient
) -> None:
    body = json.dumps({"organization_id": organization, **GOOD}).encode()

    answer = await ingest.post("/ingest", content=body, headers={**JSON, **headers})

    if "x" * 60_000 in headers.get("Authorization", "") and answer.status_code == 400:
        return  # the HTTP parser's own bound on headers came first
    problem(answer, status)


async def test_other_methods_are_told_which_one_is_right(ingest: httpx.AsyncClient) -> None:
    answer = await ingest.get("/ingest")

    problem(answer, 405)
    assert answer.headers["Allow"] == "POST"
    problem(await ingest.get("/nothing/here"), 404)


async def test_a_device_speaks_for_itself_only(
    platform: Platform, organization: str, ingest: httpx.AsyncClient
) -> None:
    async with platform.client() as management:
        path = f"/organizations/{organization}/devices"
        device = (await management.post(path, json={"name": "Pump", "id": "pump"})).json()
        bearer = {"Authorization": f"Bearer {device['token']}"}

        for wrong in ({"device_id": "other"}, {"organization_id": "other"}):
            body = {"organization_id": organization, **GOOD, **wrong}
            problem(await ingest.post("/ingest", json=body, headers=bearer), 403)
        problem(await management.get("/organizations", headers=bearer), 403)

        revoked = await management.delete(f"{path}/pump/tokens/{device['token_id']}")
        assert revoked.status_code == 204
        reading = {"sensor_name": "pressure", "value": 1.0, "device_id": "nobody"}

        async def refused() -> bool:
            return (await ingest.post("/ingest", json=reading, headers=bearer)).status_code == 401

        await eventually(refused, within_s=2)


async def test_an_organization_is_made_once(platform: Platform) -> None:
    name = f"twice{uuid.uuid4().hex[:8]}"
    async with platform.client() as client:
        answers = await asyncio.gather(
            *(client.post("/organizations", json={"id": name, "name": name}) for _ in range(4))
        )
        assert sorted(answer.status_code for answer in answers) == [201, 409, 409, 409]
        for wrong in ("a.b", "", "x" * 65, "ä", "a\n", "*"):
            problem(await client.post("/organizations", json={"id": wrong, "name": "x"}), 422)
        problem(await client.post("/devices", json={"organization_id": "nobody", "name": "x"}), 404)

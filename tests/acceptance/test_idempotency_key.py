"""`Idempotency-Key` as a client sees it."""

from __future__ import annotations

import asyncio
import uuid

import httpx
import pytest

from tests.support.platform import Platform, eventually


@pytest.fixture
async def organization(platform: Platform) -> str:
    name = f"keyed{uuid.uuid4().hex[:8]}"
    async with platform.client() as client:
        body = {"id": name, "name": name, "partitions": 2}
        assert (await client.post("/organizations", json=body)).status_code == 201
    return name


def reading(organization: str, value: float, **more: object) -> dict[str, object]:
    return {"organization_id": organization, "device_id": "pump", "sensor_name": "pressure", "value": value, **more}


async def ledger_when_settled(platform: Platform, organization: str) -> tuple[int, int]:
    async with platform.client() as client:

        async def settled() -> bool:
            return bool((await client.get(f"/organizations/{organization}/ledger")).json()["in_flight"] == 0)

        await eventually(settled)
        entry = (await client.get(f"/organizations/{organization}/ledger")).json()
        assert entry["balanced"] is True
        return entry["accepted"], entry["stored"]


async def test_a_retry_gets_the_same_answer_and_counts_once(platform: Platform, organization: str) -> None:
    async with platform.client("ingest") as client:
        body = [reading(organization, 1.0), reading(organization, 2.0, device_id="valve")]
        headers = {"Idempotency-Key": "8e03978e-40d5-43dd-bc93-6894a57f9324"}
        answers = [await client.post("/ingest", json=body, headers=headers) for _ in range(2)]
        answers += await asyncio.gather(*(client.post("/ingest", json=body, headers=headers) for _ in range(5)))
        assert {(answer.status_code, answer.text) for answer in answers} == {
            (202, '{"status":"accepted","accepted":2}')
        }
        for _ in range(2):
            assert (await client.post("/ingest", json=body)).status_code == 202
    assert await ledger_when_settled(platform, organization) == (6, 6)


async def test_another_body_is_refused_at_the_header(platform: Platform, organization: str) -> None:
    async with platform.client("ingest") as client:
        headers = {"Idempotency-Key": "k"}
        assert (await client.post("/ingest", json=reading(organization, 1.0), headers=headers)).status_code == 202
        other = [reading(organization, 1.0, device_id=f"device-{number}") for number in range(8)]
        answer = await client.post("/ingest", json=other, headers=headers)
    assert answer.status_code == 422
    assert [error["field"] for error in answer.json()["errors"]] == ["Idempotency-Key"]
    assert "another body" in answer.json()["detail"]
    assert await ledger_when_settled(platform, organization) == (1, 1)


@pytest.mark.parametrize("key", ["", "x" * 65, "a b", "ä"])
async def test_what_is_no_key(platform: Platform, organization: str, key: str) -> None:
    async with platform.client("ingest") as client:
        headers = httpx.Headers([(b"Idempotency-Key", key.encode())])
        answer = await client.post("/ingest", json=reading(organization, 1.0), headers=headers)
    assert answer.status_code == 422
    assert [error["field"] for error in answer.json()["errors"]] == ["Idempotency-Key"]
    assert await ledger_when_settled(platform, organization) == (0, 0)


async def test_the_document_describes_it(platform: Platform) -> None:
    async with platform.client("ingest") as client:
        operation = (await client.get("/schema/openapi.json")).json()["paths"]["/ingest"]["post"]
    (parameter,) = [one for one in operation["parameters"] if one["name"] == "Idempotency-Key"]
    assert (parameter["in"], parameter["required"]) == ("header", False)

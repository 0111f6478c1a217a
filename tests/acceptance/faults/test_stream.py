"""What gets into a stream behind the platform's back, redelivery, and a stream that is full."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import asyncpg
import nats
import pytest
from nats.aio.client import Client

from iotplatform.adapters.nats.headers import BlockHeaders
from iotplatform.domain.reading import FORMAT_VERSION, Reading, encode_readings, join_block
from tests.support.platform import Platform, eventually

BREACH = {"device_id": "oven", "sensor_name": "temp", "value": 300.0}


@asynccontextmanager
async def behind_the_back(platform: Platform) -> AsyncIterator[Client]:
    """A NATS client with the platform's own credentials."""
    client = await nats.connect(platform.urls["nats"])
    try:
        yield client
    finally:
        await client.close()


async def ledger_of(platform: Platform, organization: str) -> dict[str, Any]:
    async with platform.client() as client:
        entry: dict[str, Any] = (await client.get(f"/organizations/{organization}/ledger")).json()
        return entry


async def make(platform: Platform, organization: str) -> int:
    """The epoch of a new organization, as it stands in its subjects."""
    async with platform.client() as client:
        made = await client.post("/organizations", json={"id": organization, "name": organization})
        assert made.status_code == 201
    connection = await asyncpg.connect(platform.urls["postgres"])
    try:
        return int(await connection.fetchval("SELECT epoch FROM organizations WHERE id = $1", organization))
    finally:
        await connection.close()


def headers_of(number: int, count: int, total: int) -> dict[str, str]:
    return BlockHeaders(FORMAT_VERSION, "foreign", number, count, total, 1_000_000).encode()


async def test_what_cannot_be_used_is_dead_lettered_and_delays_nobody(platform: Platform) -> None:
    epoch = await make(platform, "poisoned")
    await make(platform, "healthy")
    subject = f"readings.poisoned.{epoch}.0.http"
    mixed = [Reading("pump", "note", "good", 1), Reading("pump", "note", "NUL \x00 inside", 2)]
    async with platform.client("ingest") as ingest, behind_the_back(platform) as client:
        good = {"organization_id": "poisoned", **BREACH}
        assert (await ingest.post("/ingest", json=good)).status_code == 202
        # Nobody has accepted this one: there are no headers of a lane.
        await client.request(subject, b"garbage")
        await client.request(subject, b"\xc1 garbage of a lane", headers=headers_of(1, 7, 7))
        await client.request(subject, join_block([encode_readings(mixed)], 2), headers=headers_of(2, 2, 9))
        assert (await ingest.post("/ingest", json=good)).status_code == 202
        assert (await ingest.post("/ingest", json={"organization_id": "healthy", **BREACH})).status_code == 202

    async def handled() -> bool:
        return (await ledger_of(platform, "poisoned"))["in_flight"] == 0

    await eventually(handled)
    entry = await ledger_of(platform, "poisoned")
    assert (entry["accepted"], entry["stored"], entry["dead_lettered"]) == (11, 3, 8)
    assert entry["balanced"] is True
    assert entry["unused"] == 7 or await eventually_unused(platform, 7)
    assert (await ledger_of(platform, "healthy"))["stored"] == 1
    async with platform.client() as management:
        letters = (await management.get("/organizations/poisoned/dead-letters")).json()["items"]
        assert [(letter["reason"], letter["readings"]) for letter in letters] == [
            ("undecodable", 0),
            ("undecodable", 7),
            ("unstorable", 1),
        ]
        assert json.loads(letters[2]["payload"])["value"] == "NUL \x00 inside"
        assert (await management.get("/organizations/healthy/dead-letters")).json()["items"] == []
        rows = (await management.get("/organizations/poisoned/telemetry?device_id=pump")).json()["items"]
        assert [row["value"] for row in rows] == ["good"]


async def eventually_unused(platform: Platform, count: int) -> bool:
    """That column is written once a second."""

    async def check() -> bool:
        return (await ledger_of(platform, "poisoned"))["unused"] == count

    return bool(await eventually(check))


async def test_delivering_everything_again_changes_nothing(platform: Platform) -> None:
    epoch = await make(platform, "again")
    async with platform.client("ingest") as ingest, platform.client() as management:
        for value in (90.0, 91.0, 92.0, 20.0, 93.0, 94.0, 95.0):
            reading = {"organization_id": "again", **BREACH, "value": value}
            assert (await ingest.post("/ingest", json=reading)).status_code == 202

        async def state() -> tuple[Any, ...]:
            paths = ("telemetry", "telemetry/latest", "alarms", "deliveries", "ledger")
            return tuple([(await management.get(f"/organizations/again/{path}")).json() for path in paths])

        async def complete() -> bool:
            _, _, alarms, deliveries, ledger = await state()
            sent = [item for item in deliveries["items"] if item["state"] == "sent"]
            return (len(alarms["items"]), len(sent), ledger["stored"]) == (2, 3, 7)

        await eventually(complete)
        before = await state()
        seen = len(platform.lines)
        async with behind_the_back(platform) as client:
            for stream, consumer in (
                ("ORG_again", f"analysis_{epoch}_0"),
                ("ORG_again", f"persistence_{epoch}_0"),
                ("NOTIFICATIONS", "notification"),
                ("NOTIFICATIONS", "persistence"),
            ):
                answer = await client.request(f"$JS.API.CONSUMER.RESET.{stream}.{consumer}", b'{"seq":1}')
                assert "error" not in json.loads(answer.data)

        # What comes after it has gone through everything that was delivered again.
        more = {"organization_id": "again", **BREACH, "device_id": "other", "value": 1.0, "timestamp": 5}
        assert (await ingest.post("/ingest", json=more)).status_code == 202
        await platform.log("persistence.stored", after=seen, where=lambda line: line["organization"] == "again")
        await eventually(lambda: no_lag(platform))
        after = await state()

    assert [item for item in after[0]["items"] if item["device_id"] != "other"] == before[0]["items"]
    assert after[2:4] == before[2:4]
    assert (after[4]["accepted"], after[4]["stored"], after[4]["balanced"]) == (8, 8, True)


async def no_lag(platform: Platform) -> bool:
    async with platform.client("operations") as client:
        text = (await client.get("/metrics")).text
    lags = [
        line.rsplit(" ", 1)[1] for line in text.splitlines() if line.startswith("iotplatform_consumer_lag_messages")
    ]
    return bool(lags) and all(float(lag) == 0 for lag in lags)


@pytest.mark.timeout(120)
async def test_a_full_stream_refuses_and_accepts_again_when_it_was_trimmed(tmp_path: Path) -> None:
    platform = await Platform.start(tmp_path / "data", streams__max_bytes=str(1 << 20), streams__keep_s="0")
    try:
        await make(platform, "full")
        batch = [
            {"organization_id": "full", "device_id": f"d{number}", "sensor_name": "note", "value": "x" * 200}
            for number in range(500)
        ]
        accepted = 0
        async with platform.client("ingest") as ingest:
            answer = await ingest.post("/ingest", json=batch)
            while answer.status_code == 202:
                accepted += len(batch)
                answer = await ingest.post("/ingest", json=batch)
            assert answer.status_code == 429
            assert int(answer.headers["Retry-After"]) >= 1
            assert accepted >= len(batch)

            async def taken_again() -> bool:
                return (await ingest.post("/ingest", json=batch)).status_code == 202

            await eventually(taken_again, within_s=60)
            accepted += len(batch)

        async def stored() -> bool:
            entry = await ledger_of(platform, "full")
            return (entry["stored"], entry["in_flight"], entry["balanced"]) == (accepted, 0, True)

        await eventually(stored)
        assert (await ledger_of(platform, "full"))["refused"] >= len(batch)
    finally:
        assert await platform.stop() == 0

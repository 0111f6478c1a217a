"""Retention on a running platform: what is too old goes, also what comes late; the ledger and the metrics say so."""

from __future__ import annotations

import re
import time
import uuid

import httpx

from tests.support.platform import Platform, eventually

DAY_S = 86_400


async def test_what_is_too_old_goes_and_the_ledger_stays(platform: Platform) -> None:
    org = f"org-{uuid.uuid4().hex[:8]}"
    now = int(time.time())
    async with platform.client() as management, platform.client("ingest") as ingest:
        assert (await management.put(f"/organizations/{org}", json={"name": "A"})).status_code == 201

        async def send(device: str, sensor: str, *days_ago: int) -> None:
            readings = [
                {
                    "organization_id": org,
                    "device_id": device,
                    "sensor_name": sensor,
                    "value": float(days),
                    "timestamp": now - days * DAY_S,
                }
                for days in days_ago
            ]
            assert (await ingest.post("/ingest", json=readings)).status_code == 202

        async def kept() -> list[tuple[str, str, float]]:
            items = (await management.get(f"/organizations/{org}/telemetry")).json()["items"]
            return [(item["device_id"], item["sensor"], item["value"]) for item in items]

        async def show(*expected: tuple[str, str, float]) -> None:
            async def shown() -> bool:
                return await kept() == sorted(expected)

            await eventually(shown)

        ages = (0, 3, 400)
        for device, sensor in (("a", "level"), ("a", "debug1"), ("b", "level")):
            await send(device, sensor, *ages)
        everything = [
            (device, sensor, float(days))
            for device, sensor in (("a", "debug1"), ("a", "level"), ("b", "level"))
            for days in ages
        ]

        async def all_there() -> bool:
            return sorted(await kept()) == sorted(everything)

        await eventually(all_there)
        body = {"days": 30, "sensors": {"debug*": 1}}
        assert (await management.put(f"/organizations/{org}/devices/b", json={"name": "B"})).status_code == 201
        answer = await management.put(f"/organizations/{org}/devices/b/retention", json={"days": None})
        assert answer.status_code == 200, answer.text
        assert (await management.put(f"/organizations/{org}/retention", json=body)).status_code == 200
        left = {("a", "debug1", 0.0), ("a", "level", 3.0), ("a", "level", 0.0)}
        left |= {("b", "level", float(days)) for days in ages}

        async def too_old_is_gone() -> bool:
            return set(await kept()) == left

        await eventually(too_old_is_gone)
        await send("a", "level", 90, 1)
        left.add(("a", "level", 1.0))
        await eventually(too_old_is_gone)

        ledger = (await management.get(f"/organizations/{org}/ledger")).json()
        assert (ledger["accepted"], ledger["stored"], ledger["balanced"]) == (11, 11, True)
        assert await expired(platform) >= 4
        latest = (await management.get(f"/organizations/{org}/telemetry/latest?device_id=a")).json()["items"]
        assert {item["sensor"] for item in latest} == {"level", "debug1"}


async def expired(platform: Platform) -> float:
    async with httpx.AsyncClient() as client:
        text = (await client.get(f"{platform.urls['operations']}/metrics")).text
    return sum(
        float(value) for value in re.findall(r"^iotplatform_readings_expired_total\{.*\} (\S+)$", text, re.MULTILINE)
    )

"""Being down raises nothing: whoever was silent while nobody could hear is given time to be heard again."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

from tests.support.platform import Platform, eventually

AFTER_S = 4.0


async def active(platform: Platform) -> list[str]:
    async with platform.client() as client:
        return [
            alarm["device_id"]
            for alarm in (await client.get("/organizations/calm/alarms?state=active")).json()["items"]
        ]


async def test_a_platform_that_was_killed_raises_no_silence_of_its_own(tmp_path: Path) -> None:
    platform = await Platform.start(tmp_path / "data")
    reading = {"organization_id": "calm", "device_id": "m", "sensor_name": "beat", "value": 1.0}
    try:
        async with platform.client() as client, platform.client("ingest") as ingest:
            assert (await client.post("/organizations", json={"id": "calm", "name": "Calm"})).status_code == 201
            rule = {"name": "Silent", "sensor": "beat", "condition": {"type": "no_data", "after_s": AFTER_S}}
            assert (await client.put("/organizations/calm/rules/silent", json=rule)).status_code == 201
            assert (await ingest.post("/ingest", json=reading)).status_code == 202

            async def heard() -> bool:
                answer = await client.get("/organizations/calm/rules/silent/explain?device_id=m")
                return any("the last reading arrived" in item["why"] for item in answer.json()["items"])

            await eventually(heard)
        await platform.kill()
        await asyncio.sleep(AFTER_S + 1)
        platform = await Platform.start(tmp_path / "data")
        back_at = time.monotonic()
        # Of another device, as the first thing that happens: it moves the clock of blocks.
        async with platform.client("ingest") as ingest:
            assert (await ingest.post("/ingest", json=reading | {"device_id": "n"})).status_code == 202
        while time.monotonic() - back_at < AFTER_S - 1.5:
            assert await active(platform) == []
            await asyncio.sleep(0.25)

        async def both() -> bool:
            return sorted(await active(platform)) == ["m", "n"]

        await eventually(both)
        assert time.monotonic() - back_at >= AFTER_S - 1.5
    finally:
        await platform.stop()

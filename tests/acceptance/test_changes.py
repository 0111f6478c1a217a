"""What management changes is known to every other process: new organizations at once, everything else within 2 s."""

from __future__ import annotations

import asyncio
import re
import time
from pathlib import Path

from tests.support.platform import Platform, eventually

READING = {"sensor_name": "pressure", "value": 1.0}


async def test_another_process_knows_at_once_or_soon(platform: Platform, tmp_path: Path) -> None:
    urls = {f"{name}__url": platform.urls[name] for name in ("nats", "postgres", "redis")}
    other = await Platform.start(tmp_path / "data", "--roles=ingest", **urls)
    try:
        async with platform.client() as management, other.client("ingest") as ingest:
            unknown = {"organization_id": "later", "device_id": "pump", **READING}
            assert (await ingest.post("/ingest", json=unknown)).status_code == 404
            for number in range(5):
                name = f"new{number}"
                assert (await management.post("/organizations", json={"id": name, "name": name})).status_code == 201
                reading = {"organization_id": name, "device_id": "pump", **READING}
                assert (await ingest.post("/ingest", json=reading)).status_code == 202

            device = (await management.post("/organizations/new0/devices", json={"name": "Pump"})).json()
            bearer = {"Authorization": f"Bearer {device['token']}"}
            assert (await ingest.post("/ingest", json=READING, headers=bearer)).status_code == 202
            path = f"/organizations/new0/devices/{device['id']}/tokens/{device['token_id']}"
            assert (await management.delete(path)).status_code == 204
            revoked_at = time.monotonic()

            async def refused() -> bool:
                return (await ingest.post("/ingest", json=READING, headers=bearer)).status_code == 401

            await eventually(refused)
            assert time.monotonic() - revoked_at < 2
    finally:
        assert await other.stop() == 0


async def test_a_rule_is_known_to_every_process_of_analysis_within_two_seconds(tmp_path: Path) -> None:
    """Two of them share the partitions of twelve organizations, so each is asked."""
    roles = "--roles=management,ingest,analysis,notification,persistence"
    first = await Platform.start(tmp_path / "first", roles)
    try:
        urls = {f"{name}__url": first.urls[name] for name in ("nats", "postgres", "redis")}
        second = await Platform.start(tmp_path / "second", "--roles=analysis", **urls)
        try:
            async with first.client() as management, first.client("ingest") as ingest:
                names = [f"org{number}" for number in range(12)]
                for name in names:
                    assert (await management.post("/organizations", json={"id": name, "name": name})).status_code == 201

                async def shared() -> bool:
                    async with second.client("operations") as operations:
                        text = (await operations.get("/metrics")).text
                    return re.search(r'partitions_held\{role="analysis"\} [1-9]', text) is not None

                await eventually(shared)
                condition = {"type": "threshold", "operator": ">", "value": 5}
                rule = {
                    "name": "P",
                    "sensor": "pressure",
                    "severity": "minor",
                    "raise_after": 1,
                    "condition": condition,
                }
                for name in names:
                    answer = await management.put(f"/organizations/{name}/rules/pressure", json=rule)
                    assert answer.status_code == 201, answer.text
                # The promise itself: what comes two seconds later meets the new rule, wherever it is read.
                await asyncio.sleep(2)
                for name in names:
                    reading = {"organization_id": name, "device_id": "pump", "sensor_name": "pressure", "value": 6}
                    assert (await ingest.post("/ingest", json=reading)).status_code == 202

                async def raised() -> bool:
                    lists = [(await management.get(f"/organizations/{name}/alarms")).json()["items"] for name in names]
                    return all([alarm["rule_id"] for alarm in items] == ["pressure"] for items in lists)

                await eventually(raised)
        finally:
            assert await second.stop() == 0
    finally:
        assert await first.stop() == 0

"""What management changes is known to every other process: new organizations at once, everything else within 2 s."""

from __future__ import annotations

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

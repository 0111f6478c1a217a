"""A device ends on a running platform: its token opens nothing any more, and who gets its id begins anew."""

from __future__ import annotations

import uuid
from typing import Any

from tests.support.platform import Platform, eventually


async def test_deleting_and_making_again(platform: Platform) -> None:
    org = f"org-{uuid.uuid4().hex[:8]}"
    async with platform.client() as management, platform.client("ingest") as ingest:
        assert (await management.put(f"/organizations/{org}", json={"name": "A"})).status_code == 201
        path = f"/organizations/{org}/devices/oven"

        async def send(token: str, value: float) -> int:
            body = {"sensor_name": "level", "value": value}
            return (await ingest.post("/ingest", json=body, headers={"Authorization": f"Bearer {token}"})).status_code

        async def values(where: str = "telemetry") -> list[float]:
            found: list[dict[str, Any]] = (await management.get(f"/organizations/{org}/{where}")).json()["items"]
            return [item["value"] for item in found]

        async def show(expected: list[float]) -> None:
            async def shown() -> bool:
                return await values() == expected and await values("telemetry/latest") == expected[-1:]

            await eventually(shown)

        first = (await management.put(path, json={"name": "Oven"})).json()["token"]
        assert [await send(first, value) for value in (1.0, 2.0)] == [202, 202]
        await show([1.0, 2.0])
        assert (await management.delete(path)).status_code == 204
        await show([])
        # In the process that deleted it at once, in the others by the change feed.
        assert await send(first, 3.0) == 401
        second = (await management.put(path, json={"name": "Oven"})).json()["token"]
        assert await send(first, 4.0) == 401
        assert await send(second, 5.0) == 202
        await show([5.0])

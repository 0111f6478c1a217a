"""The walk-through: readings in, one alarm for each episode out, in one process and in five."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from typing import Any

import httpx
import pytest

from tests.support.platform import Platform, eventually

ROLES = ("ingest", "analysis", "notification", "persistence")


class Deployment:
    """Platforms that are one together: where to send, where to ask, and all their log lines."""

    def __init__(self, management: Platform, ingest: Platform, platforms: list[Platform]) -> None:
        self.management = management
        self.ingest = ingest
        self.platforms = platforms

    def lines(self, action: str, organization: str) -> list[dict[str, Any]]:
        found = [line for platform in self.platforms for line in platform.lines if line.get("action") == action]
        subjects = f"readings.{organization}."
        return [
            line
            for line in found
            if line.get("organization") == organization or line.get("subject", "").startswith(subjects)
        ]


@pytest.fixture(params=["one process", "five processes"])
async def deployment(
    request: pytest.FixtureRequest, platform: Platform, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Deployment]:
    if request.param == "one process":
        yield Deployment(platform, platform, [platform])
        return
    folder = tmp_path_factory.mktemp("five")
    async with AsyncExitStack() as stack:
        first = await Platform.start(folder / "management", "--roles=management")
        stack.push_async_callback(first.stop)
        urls = {f"{name}__url": first.urls[name] for name in ("nats", "postgres", "redis")}
        others = await asyncio.gather(*(Platform.start(folder / role, f"--roles={role}", **urls) for role in ROLES))
        for other in others:
            stack.push_async_callback(other.stop)
        yield Deployment(first, others[0], [first, *others])


class Walker:
    def __init__(self, deployment: Deployment, management: httpx.AsyncClient, ingest: httpx.AsyncClient) -> None:
        self.deployment = deployment
        self.management = management
        self.ingest = ingest
        self.organization = f"org{uuid.uuid4().hex[:8]}"
        self.sent = 0

    async def send(self, value: float, timestamp: float) -> None:
        answer = await self.ingest.post(
            "/ingest",
            json={
                "organization_id": self.organization,
                "device_id": "machine-123",
                "sensor_name": "temp1",
                "value": value,
                "timestamp": timestamp,
            },
        )
        assert (answer.status_code, answer.json()) == (202, {"status": "accepted", "accepted": 1})
        self.sent += 1

    async def get(self, what: str) -> Any:
        answer = await self.management.get(f"/organizations/{self.organization}/{what}")
        assert answer.status_code == 200, answer.text
        return answer.json()

    async def settled(self, alarms: int, deliveries: int) -> None:
        """Until everything sent is stored, and there are so many alarms and sent deliveries."""

        async def check() -> bool:
            ledger = await self.get("ledger")
            sent = [item for item in (await self.get("deliveries"))["items"] if item["state"] == "sent"]
            counts = (ledger["stored"], len((await self.get("alarms"))["items"]), len(sent))
            return counts == (self.sent, alarms, deliveries)

        await eventually(check)

    def logged(self, action: str) -> list[dict[str, Any]]:
        return self.deployment.lines(action, self.organization)


async def test_the_third_breach_in_a_row_raises_one_alarm(deployment: Deployment) -> None:
    async with deployment.management.client() as management, deployment.ingest.client("ingest") as ingest:
        walker = Walker(deployment, management, ingest)
        made = await management.post("/organizations", json={"id": walker.organization, "name": "A Corp"})
        assert made.status_code == 201
        device = await management.post(
            "/devices", json={"organization_id": walker.organization, "name": "Temp Sensor 1"}
        )
        assert device.status_code == 201
        assert uuid.UUID(device.json()["id"])
        assert len(device.json()["token"].split(".")) == 3

        await walker.send(85.0, 1672531200)
        for _ in range(3):
            await walker.send(90.0, 1)
        await walker.settled(alarms=1, deliveries=1)

        (alarm,) = (await walker.get("alarms"))["items"]
        assert alarm["state"] == "active"
        assert (alarm["rule_id"], alarm["device_id"], alarm["sensor"]) == ("default", "machine-123", "temp1")
        assert (alarm["severity"], alarm["trigger_value"]) == ("major", 90.0)
        assert alarm["raised_at"] == "1970-01-01T00:00:01.000000Z"
        assert alarm["first_breach_at"] == "2023-01-01T00:00:00.000000Z"
        assert [entry["value"] for entry in alarm["readings"]] == [85.0, 90.0, 90.0]
        assert len(walker.logged("ingest.published")) == 4
        assert sum(line["breaches"] for line in walker.logged("analysis.breach")) == 3
        assert [line["alarm"] for line in walker.logged("analysis.alarm_raised")] == [alarm["id"]]
        (mail,) = walker.logged("notification.sent")
        assert (mail["channel"], mail["alarm"]) == ("log", alarm["id"])
        assert "Alarm raised" in mail["mail"]
        assert "machine-123" in mail["mail"]
        assert sum(line["readings"] for line in walker.logged("persistence.stored")) == 4

        latest = (await walker.get("telemetry/latest?device_id=machine-123"))["items"]
        stored = (await walker.get("telemetry?device_id=machine-123&sensor=temp1"))["items"]
        assert [(item["timestamp"], item["value"]) for item in stored] == [
            ("1970-01-01T00:00:01.000000Z", 90.0),
            ("2023-01-01T00:00:00.000000Z", 85.0),
        ]
        assert latest == stored[-1:]


async def test_an_episode_ends_and_another_begins(deployment: Deployment) -> None:
    async with deployment.management.client() as management, deployment.ingest.client("ingest") as ingest:
        walker = Walker(deployment, management, ingest)
        await management.post("/organizations", json={"id": walker.organization, "name": "A Corp"})

        for number in range(5):
            await walker.send(90.0, 100 + number)
        await walker.settled(alarms=1, deliveries=1)
        await walker.send(70.0, 200)
        await walker.settled(alarms=1, deliveries=2)
        (first,) = (await walker.get("alarms"))["items"]
        assert (first["state"], first["cleared_at"]) == ("cleared", "1970-01-01T00:03:20.000000Z")

        for number in range(3):
            await walker.send(95.0, 300 + number)
        await walker.settled(alarms=2, deliveries=3)
        second, same = (await walker.get("alarms"))["items"]
        assert same == first
        assert (second["state"], second["raised_at"]) == ("active", "1970-01-01T00:05:02.000000Z")
        assert second["id"] != first["id"]
        assert [item["transition"] for item in reversed((await walker.get("deliveries"))["items"])] == [
            "raised",
            "cleared",
            "raised",
        ]
        ledger = await walker.get("ledger")
        assert (ledger["accepted"], ledger["stored"], ledger["balanced"]) == (9, 9, True)

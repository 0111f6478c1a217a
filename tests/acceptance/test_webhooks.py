"""Alarms by webhook: one notification for each transition, in order, whatever the other side does meanwhile."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, Self

import httpx
import pytest
from aiohttp import web

from tests.support.platform import Platform, eventually
from tests.support.webhook_sink import WebhookSink, webhook_sink

SECRET = "whsec-acceptance-77"


@pytest.fixture(scope="module")
async def platform(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Platform]:
    folder: Path = tmp_path_factory.mktemp("webhooks")
    running = await Platform.start(folder / "data", notification__allowed_addresses="127.0.0.1/32")
    yield running
    assert await running.stop() == 0, running.tail()
    assert SECRET not in "".join(str(line) for line in running.lines)


@pytest.fixture
async def sink() -> AsyncIterator[WebhookSink]:
    async with webhook_sink() as opened:
        yield opened


class Organization:
    def __init__(self, platform: Platform, name: str) -> None:
        self.name = name
        self._management = httpx.AsyncClient(base_url=platform.urls["management"], timeout=30)
        self._ingest = httpx.AsyncClient(base_url=platform.urls["ingest"], timeout=30)

    async def __aenter__(self) -> Self:
        await self.post("/organizations", {"id": self.name, "name": self.name})
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._management.aclose()
        await self._ingest.aclose()

    async def post(self, path: str, body: Any, status: int = 201) -> httpx.Response:
        answer = await self._management.post(path, json=body)
        assert answer.status_code == status, answer.text
        return answer

    async def webhook(self, name: str, url: str) -> None:
        config = {"url": url, "secret": SECRET}
        body = {"id": name, "name": name, "type": "webhook", "config": config}
        await self.post(f"/organizations/{self.name}/channels", body)

    async def send(self, *values: float) -> None:
        reading = {"organization_id": self.name, "device_id": "oven", "sensor_name": "temp"}
        answer = await self._ingest.post("/ingest", json=[{**reading, "value": value} for value in values])
        assert answer.status_code == 202, answer.text

    async def get(self, what: str) -> list[dict[str, Any]]:
        answer = await self._management.get(f"/organizations/{self.name}/{what}")
        assert answer.status_code == 200, answer.text
        items: list[dict[str, Any]] = answer.json()["items"]
        return items


async def test_flaps_become_one_notification_for_each_transition(platform: Platform, sink: WebhookSink) -> None:
    async with Organization(platform, "flapping") as flapping:
        await flapping.webhook("hook", sink.url())
        for _ in range(3):
            await flapping.send(90, 91, 92, 93, 94)
            await flapping.send(70)
        got = await sink.wait(6)
        by_alarm: dict[str, list[str]] = {}
        for each in got:
            by_alarm.setdefault(each.document["alarm"]["id"], []).append(each.document["transition"])
        assert list(by_alarm.values()) == [["raised", "cleared"]] * 3
        assert len({each.headers["Iotplatform-Delivery"] for each in got}) == 6
        first = got[0].document
        assert first["organization_id"] == "flapping"
        assert [reading["value"] for reading in first["alarm"]["readings"]] == [90, 91, 92]
        assert {"rule_id", "device_id", "sensor", "severity", "condition", "raised_at"} <= first["alarm"].keys()


async def test_a_failure_is_tried_again_and_each_attempt_is_shown(platform: Platform, sink: WebhookSink) -> None:
    async with Organization(platform, "failing") as failing:
        await failing.webhook("hook", sink.url())
        sink.answers = [web.Response(status=500)]
        await failing.send(90, 91, 92)
        first, second = await sink.wait(2)
        assert first.body == second.body
        assert first.headers["Iotplatform-Delivery"] == second.headers["Iotplatform-Delivery"]

        async def shown() -> bool:
            [delivery] = [each for each in await failing.get("deliveries") if each["channel_id"] == "hook"]
            outcomes = [(attempt["outcome"], attempt["detail"]) for attempt in delivery["attempts"]]
            return outcomes == [("retry", "the webhook answered 500"), ("sent", "")]

        await eventually(shown)


async def test_one_that_hangs_holds_up_nobody_else(platform: Platform, sink: WebhookSink) -> None:
    async with Organization(platform, "hanging") as hanging, Organization(platform, "bystander") as bystander:
        for number in range(12):
            await hanging.webhook(f"hang-{number}", sink.url("/hang"))
        await hanging.webhook("works", sink.url("/works"))
        await bystander.webhook("works", sink.url("/bystander"))
        await hanging.send(90, 91, 92)
        await sink.wait(12)
        await bystander.send(90, 91, 92)
        async with asyncio.timeout(10):
            while not {"/works", "/bystander"} <= {got.path for got in sink.got}:
                await sink.wait(len(sink.got) + 1)
        sink.end()


async def test_an_alarm_cleared_by_hand(platform: Platform, sink: WebhookSink) -> None:
    async with Organization(platform, "byhand") as byhand:
        await byhand.webhook("hook", sink.url())
        await byhand.send(90, 91, 92)
        await sink.wait(1)

        async def active() -> bool:
            return bool(await byhand.get("alarms?state=active"))

        await eventually(active)
        [alarm] = await byhand.get("alarms")
        clear = f"/organizations/byhand/alarms/{alarm['id']}/clear"
        await byhand.post(clear, {}, 202)
        got = await sink.wait(2)
        assert got[1].document["transition"] == "cleared"
        assert got[1].document["alarm"]["reason"] == "manual"

        async def cleared() -> bool:
            return [each["state"] for each in await byhand.get("alarms")] == ["cleared"]

        await eventually(cleared)
        await byhand.post(clear, {}, 409)
        # What still breaches starts the count anew.
        await byhand.send(93, 94, 95)
        assert (await sink.wait(3))[2].document["transition"] == "raised"


async def test_a_channel_is_tried(platform: Platform, sink: WebhookSink) -> None:
    async with Organization(platform, "trying") as trying:
        await trying.webhook("hook", sink.url())
        answer = await trying.post("/organizations/trying/channels/hook/test", {}, 200)
        assert answer.json()["outcome"] == "sent"
        assert sink.got[0].document["transition"] == "test"

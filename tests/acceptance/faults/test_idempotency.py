"""Clients with an `Idempotency-Key` try every request until it is accepted: each counts once, whatever is killed."""

from __future__ import annotations

import asyncio
import collections
import os
import signal
from pathlib import Path
from urllib.parse import urlsplit

import asyncpg
import httpx
import pytest

from tests.support.platform import Platform, eventually

EPOCH_S = 1_600_000_000
ORGANIZATIONS = {"acme": 1, "globex": 3}
CLIENTS = 6
DYING = "tests.support.kill_main"
STRICT = "tests.support.strict_main"


class Stubborn:
    """Clients that send numbered requests of two devices, each with its key, and never give one up."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.accepted: collections.Counter[str] = collections.Counter()
        self.tries = 0
        self.wrong: list[str] = []
        self._number = 0
        self._stopping = False
        self._more = asyncio.Condition()
        self._clients: list[asyncio.Task[None]] = []

    def start(self) -> None:
        loop = asyncio.get_running_loop()
        self._clients = [loop.create_task(self._send(name)) for name in ORGANIZATIONS for _ in range(CLIENTS)]

    async def stop(self) -> None:
        self._stopping = True
        async with asyncio.timeout(120):
            await asyncio.gather(*self._clients)

    async def more(self, count: int, platform: Platform) -> None:
        wanted = self.accepted.total() + count
        try:
            async with asyncio.timeout(120), self._more:
                await self._more.wait_for(lambda: self.accepted.total() >= wanted)
        except TimeoutError:
            ended = [client for client in self._clients if client.done()]
            raise AssertionError(f"{platform.process.returncode=}, clients {ended}: {platform.tail()}") from None

    async def _send(self, organization: str) -> None:
        async with httpx.AsyncClient(timeout=30) as client:
            while not self._stopping:
                self._number += 1
                number = self._number
                body = [
                    {
                        "organization_id": organization,
                        "device_id": f"device-{number % 5 + offset}",
                        "sensor_name": "level",
                        "value": number,
                        "timestamp": EPOCH_S + number,
                    }
                    for offset in (0, 5)
                ]
                await self._insist(client, body, f"request-{number}")
                async with self._more:
                    self.accepted[organization] += len(body)
                    self._more.notify_all()

    async def _insist(self, client: httpx.AsyncClient, body: object, key: str) -> None:
        while True:
            if await self._try(client, body, key):
                return
            await asyncio.sleep(0.05)  # nobody listens, and nobody will tell when that changes

    async def _try(self, client: httpx.AsyncClient, body: object, key: str) -> bool:
        self.tries += 1
        try:
            answer = await client.post(f"{self.url}/ingest", json=body, headers={"Idempotency-Key": key})
        except httpx.HTTPError:
            return False
        if answer.status_code not in {202, 429, 503}:
            self.wrong.append(f"{answer.status_code} {answer.text}")
        return answer.status_code == 202


async def prepare(platform: Platform) -> None:
    async with platform.client() as client:
        for organization, partitions in ORGANIZATIONS.items():
            body = {"id": organization, "name": organization, "partitions": partitions}
            assert (await client.post("/organizations", json=body)).status_code == 201


async def assert_each_counts_once(platform: Platform, clients: Stubborn) -> None:
    assert clients.wrong == []
    async with platform.client() as client:

        async def balanced() -> bool:
            entries = [(await client.get(f"/organizations/{name}/ledger")).json() for name in ORGANIZATIONS]
            return all(entry["balanced"] and entry["in_flight"] == 0 for entry in entries)

        await eventually(balanced, within_s=60)
        for name in ORGANIZATIONS:
            entry = (await client.get(f"/organizations/{name}/ledger")).json()
            assert (entry["accepted"], entry["stored"]) == (clients.accepted[name], clients.accepted[name])
    connection = await asyncpg.connect(platform.urls["postgres"])
    try:
        # Every reading has a time of its own, so a row is a reading.
        assert await connection.fetchval("SELECT count(*) FROM readings") == clients.accepted.total()
    finally:
        await connection.close()


def duplicates(*platforms: Platform) -> int:
    return sum(line.get("action") == "ingest.duplicate" for platform in platforms for line in platform.lines)


@pytest.mark.timeout(400)
async def test_killed_between_storing_and_answering(tmp_path: Path) -> None:
    platform = await Platform.start(tmp_path / "data", main=DYING)
    clients = Stubborn(platform.urls["ingest"])
    await prepare(platform)
    ports = {f"{name}__port": str(urlsplit(platform.urls[name]).port) for name in ("ingest", "management")}
    clients.start()
    died = []
    for main in (DYING, STRICT):
        async with asyncio.timeout(120):
            assert await platform.process.wait() == -signal.SIGKILL, platform.tail()
        await platform.kill()
        died.append(platform)
        platform = await Platform.start(tmp_path / "data", main=main, **ports)
    await clients.more(200, platform)
    await clients.stop()

    await assert_each_counts_once(platform, clients)
    # The readings whose answer died with the process were there when their clients tried again.
    assert duplicates(*died, platform) >= 2
    assert clients.tries > clients.accepted.total() / 2
    assert await platform.stop() == 0, platform.tail()


@pytest.mark.timeout(400)
async def test_nats_server_and_the_platform_killed_again_and_again(tmp_path: Path) -> None:
    platform = await Platform.start(tmp_path / "data")
    clients = Stubborn(platform.urls["ingest"])
    await prepare(platform)
    ports = {f"{name}__port": str(urlsplit(platform.urls[name]).port) for name in ("ingest", "management")}
    clients.start()
    for _ in range(2):
        await clients.more(150, platform)
        seen = len(platform.lines)
        started = {"embedded.started", "embedded.restarted"}
        nats = next(line for line in reversed(platform.lines) if line["action"] in started and line["server"] == "nats")
        os.kill(nats["pid"], signal.SIGKILL)
        await platform.log("embedded.restarted", after=seen, where=lambda line: line["server"] == "nats")
        await clients.more(150, platform)
        await platform.kill()
        platform = await Platform.start(tmp_path / "data", **ports)
    await clients.more(150, platform)
    await clients.stop()

    await assert_each_counts_once(platform, clients)
    assert await platform.stop() == 0, platform.tail()

"""Every process is stopped and started in turn while devices and people go on: they see nothing of it."""

from __future__ import annotations

import asyncio
import signal
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

import httpx
import pytest

from iotplatform.adapters.embedded import DataDirectory, EmbeddedServers, EmbeddedSettings
from iotplatform.adapters.postgres.migrations import migrate
from tests.acceptance.conftest import faults_in
from tests.support.balancer import BalancedLoad, Balancer, People
from tests.support.load import assert_nothing_lost
from tests.support.platform import Platform, eventually

ORGANIZATIONS: Final = {"acme": 4, "globex": 1}
DEVICES: Final = 4
SEED: Final = 20_261_126
GRACE_S: Final = 1.0
# Each of them has every role, so two of each role are there.
MEMBERS: Final = ("one", "two")


class Fleet:
    """The processes, which come back on the ports that they had."""

    def __init__(self, folder: Path, urls: dict[str, str]) -> None:
        self.members: dict[str, Platform] = {}
        self._folder = folder
        self._settings = {name: {**urls, "operations__grace_s": str(GRACE_S)} for name in MEMBERS}

    async def start(self, name: str) -> Platform:
        settings = self._settings[name]
        platform = await Platform.start(self._folder / name, strict=False, **settings)
        for listener in ("ingest", "management", "operations"):
            settings[f"{listener}__port"] = str(urlsplit(platform.urls[listener]).port)
        self.members[name] = platform
        return platform

    async def restart(self, name: str) -> None:
        leaving = self.members[name]
        began = time.monotonic()
        leaving.process.send_signal(signal.SIGTERM)
        await _says_that_it_leaves_and_serves(leaving)
        assert await leaving.ended() == 0, leaving.tail()
        assert time.monotonic() - began >= GRACE_S
        assert faults_in(leaving.lines) == []
        await self.start(name)


async def _says_that_it_leaves_and_serves(leaving: Platform) -> None:
    async with httpx.AsyncClient() as client:

        async def not_ready() -> bool:
            answer = await client.get(f"{leaving.urls['operations']}/readyz")
            return answer.status_code == 503 and answer.json()["problems"] == {"process": "starting or stopping"}

        await eventually(not_ready, within_s=GRACE_S)
        # Whoever has not noticed is served, by the short way and by the ordinary one, and needs a new connection next.
        nameless = {"organization_id": "globex", "device_id": "late", "sensor_name": "", "value": 1}
        for url, body, status in (
            (f"{leaving.urls['ingest']}/ingest", nameless, 422),
            (f"{leaving.urls['management']}/organizations", {"id": "globex", "name": "G"}, 409),
        ):
            answer = await client.post(url, json=body)
            assert (answer.status_code, answer.headers["connection"]) == (status, "close")


@pytest.fixture(scope="module")
async def outside(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[dict[str, str]]:
    """Servers that none of the processes holds, as settings of theirs."""
    with DataDirectory.open(tmp_path_factory.mktemp("servers")) as directory:
        servers = EmbeddedServers(directory, EmbeddedSettings(nats_port=0, nats_monitor_port=0))
        urls = await servers.start()
        keeper = asyncio.get_running_loop().create_task(servers.run())
        try:
            assert urls.postgres
            await migrate(urls.postgres)
            yield {f"{name}__url": str(getattr(urls, name)) for name in ("nats", "postgres", "redis")}
        finally:
            keeper.cancel()
            await servers.stop()


@pytest.mark.timeout(240)
async def test_every_process_in_turn_and_nobody_notices(outside: dict[str, str], tmp_path: Path) -> None:
    fleet = Fleet(tmp_path, outside)
    try:
        await asyncio.gather(*map(fleet.start, MEMBERS))
        balancer = Balancer(fleet.members)
        load = BalancedLoad(balancer, ORGANIZATIONS, devices=DEVICES, seed=SEED)
        await load.prepare(fleet.members["one"])
        people = People(balancer, "acme")
        async with balancer.asking(), people.working():
            load.start()
            await load.more(100)
            for name in MEMBERS:
                await fleet.restart(name)
                await load.more(100)
            await load.stop()
            assert balancer.ready == set(MEMBERS)

        assert set(load.statuses) == {"202"}, load.statuses
        assert set(people.statuses) <= {"200", "201"}, people.statuses
        await assert_nothing_lost(fleet.members["one"], load)
    finally:
        codes = await asyncio.gather(*(member.stop() for member in fleet.members.values()))
    assert set(codes) == {0}
    assert [fault for member in fleet.members.values() for fault in faults_in(member.lines)] == []


async def test_being_told_again_ends_the_grace(outside: dict[str, str], tmp_path: Path) -> None:
    platform = await Platform.start(tmp_path / "data", "--roles=ingest", **outside, operations__grace_s="300")
    platform.process.send_signal(signal.SIGTERM)
    await platform.log("platform.leaving")

    assert await platform.stop(within_s=30) == 0, platform.tail()

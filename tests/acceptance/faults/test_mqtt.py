"""MQTT with QoS 1 while nats-server and the platform are killed: what was acknowledged is stored, and nothing twice."""

from __future__ import annotations

import asyncio
import collections
import os
import signal
from pathlib import Path

import aiomqtt
import asyncpg

from tests.support.mqtt import device
from tests.support.platform import Platform, eventually

ORGANIZATIONS = {"acme": 1, "globex": 3}
DEVICES = 3
EPOCH_S = 1_600_000_000


class Publishers:
    """Devices that publish numbers, each once: after a fault they go on with the next, under a new session."""

    def __init__(self, platform: Platform) -> None:
        self.platform = platform
        self.acknowledged: collections.Counter[str] = collections.Counter()
        self.sent: dict[tuple[str, str], set[int]] = {}
        self.certain: dict[tuple[str, str], set[int]] = {}
        self._number = 0
        self._stopping = False
        self._tasks: list[asyncio.Task[None]] = []
        self._more = asyncio.Condition()

    def start(self) -> None:
        loop = asyncio.get_running_loop()
        self._tasks = [
            loop.create_task(self._publish(organization, f"device-{number}"))
            for organization in ORGANIZATIONS
            for number in range(DEVICES)
        ]

    async def stop(self) -> None:
        self._stopping = True
        async with asyncio.timeout(60):
            await asyncio.gather(*self._tasks)

    async def more(self, count: int) -> None:
        wanted = self.acknowledged.total() + count
        async with asyncio.timeout(90), self._more:
            await self._more.wait_for(lambda: self.acknowledged.total() >= wanted)

    async def _publish(self, organization: str, name: str) -> None:
        sent = self.sent.setdefault((organization, name), set())
        certain = self.certain.setdefault((organization, name), set())
        while not self._stopping:
            try:
                async with device(self.platform, organization, name, timeout=5) as client:
                    while not self._stopping:
                        self._number += 1
                        number = self._number
                        sent.add(number)
                        body = b'{"sensor_name":"n","value":%d,"timestamp":%d}' % (number, EPOCH_S + number)
                        await client.publish(f"iot/{organization}/{name}/telemetry", body, qos=1)
                        certain.add(number)
                        self.acknowledged[organization] += 1
                        async with self._more:
                            self._more.notify_all()
            except (aiomqtt.MqttError, OSError, TimeoutError):
                await asyncio.sleep(0.05)


async def test_what_was_acknowledged_is_stored_exactly_once(tmp_path: Path) -> None:
    platform = await Platform.start(tmp_path / "data")
    try:
        async with platform.client() as http:
            for organization, partitions in ORGANIZATIONS.items():
                made = {"id": organization, "name": organization, "partitions": partitions}
                assert (await http.post("/organizations", json=made)).status_code == 201
        publishers = Publishers(platform)
        publishers.start()
        await publishers.more(200)
        for _ in range(3):
            seen = len(platform.lines)
            os.kill(nats_pid(platform), signal.SIGKILL)
            await platform.log("embedded.restarted", after=seen)
            await publishers.more(100)
        for _ in range(2):
            await platform.kill()
            # nats-server lives on without us, and acknowledges what it takes.
            await publishers.more(50)
            platform = publishers.platform = await Platform.start(tmp_path / "data")
            await publishers.more(100)
        await publishers.stop()
        await all_is_stored(platform, publishers)
    finally:
        await platform.stop()


async def all_is_stored(platform: Platform, publishers: Publishers) -> None:
    async with platform.client() as http:

        async def enough() -> bool:
            for organization, count in publishers.acknowledged.items():
                entry = (await http.get(f"/organizations/{organization}/ledger")).json()
                if entry["in_flight"] or entry["stored"] < count:
                    return False
                assert entry["balanced"], entry
            return True

        await eventually(enough, within_s=60)
    stored = await readings_of(platform)
    for key, certain in publishers.certain.items():
        found = stored[key]
        assert certain <= set(found), f"{key}: acknowledged and not stored"
        assert set(found) <= publishers.sent[key], f"{key}: never sent"
    async with platform.client() as http:
        for organization in ORGANIZATIONS:
            entry = (await http.get(f"/organizations/{organization}/ledger")).json()
            # A row is written over by a double of it; the ledger counts both.
            assert entry["stored"] == sum(
                len(set(found)) for (owner, _), found in stored.items() if owner == organization
            )


async def readings_of(platform: Platform) -> dict[tuple[str, str], list[int]]:
    connection = await asyncpg.connect(platform.urls["postgres"])
    try:
        rows = await connection.fetch(
            "SELECT o.id AS organization, s.device_id, r.value::bigint AS number FROM readings r"
            " JOIN series s ON s.id = r.series_id JOIN organizations o ON o.epoch = s.epoch"
        )
    finally:
        await connection.close()
    found: dict[tuple[str, str], list[int]] = collections.defaultdict(list)
    for row in rows:
        found[row["organization"], row["device_id"]].append(row["number"])
    return found


def nats_pid(platform: Platform) -> int:
    return next(
        int(line["pid"])
        for line in reversed(platform.lines)
        if line.get("server") == "nats" and line.get("action") in {"embedded.started", "embedded.restarted"}
    )

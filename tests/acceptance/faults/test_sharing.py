"""Two processes share the partitions: one comes, leaves, is killed, or freezes and comes back, while clients send."""

from __future__ import annotations

import asyncio
import itertools
import signal
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final

import asyncpg
import pytest
from prometheus_client.parser import text_string_to_metric_families
from redis.asyncio import Redis

from iotplatform.domain.identifiers import partition_of
from tests.acceptance.conftest import faults_in
from tests.support.load import Load, assert_nothing_lost
from tests.support.platform import Platform, eventually

ROLES: Final = ("analysis", "persistence")
ORGANIZATIONS: Final = {"acme": 8, "globex": 4}
PARTITIONS: Final = sum(ORGANIZATIONS.values())
DEVICES: Final = 8
SEED: Final = 20_261_201

Positions = dict[tuple[str, int, int], int]


class Deployment:
    """A process with the servers and the doors, and workers beside it."""

    def __init__(self, main: Platform, folder: Path) -> None:
        self.main = main
        self.workers: list[Platform] = []
        self._folder = folder
        self._numbers = itertools.count()

    async def add_worker(self) -> Platform:
        urls = {f"{name}__url": self.main.urls[name] for name in ("nats", "postgres", "redis")}
        folder = self._folder / f"worker-{next(self._numbers)}"
        worker = await Platform.start(folder, "--roles=analysis,persistence,notification", **urls)
        self.workers.append(worker)
        return worker

    async def share(self, *workers: Platform, within_s: float) -> float:
        """Until these workers have everything among them, and each of them something; returns how long it took."""
        began = time.monotonic()

        async def shared() -> bool:
            held = [await partitions_held(worker) for worker in workers]
            return (
                all(
                    sum(each.get(role, 0) for each in held) == PARTITIONS and all(each.get(role) for each in held)
                    for role in ROLES
                )
                and sum(each.get("notification", 0) for each in held) == 1
            )

        await eventually(shared, within_s=within_s)
        return time.monotonic() - began

    async def everything_moves(self, *, within_s: float) -> float:
        """Until every partition that is written to has moved on from where it is; returns how long it took."""
        began = time.monotonic()
        before = await self._positions()

        async def moved() -> bool:
            now = await self._positions()
            return all(now[key] > position for key, position in before.items())

        await eventually(moved, within_s=within_s)
        return time.monotonic() - began

    async def _positions(self) -> Positions:
        """Of both roles, by (role, epoch, partition)."""
        connection = await asyncpg.connect(self.main.urls["postgres"])
        try:
            rows = await connection.fetch(
                "SELECT o.id, p.epoch, p.number, p.position FROM partitions p JOIN organizations o USING (epoch)"
            )
        finally:
            await connection.close()
        busy = [row for row in rows if row["number"] in busy_partitions(ORGANIZATIONS[row["id"]])]
        found = {("persistence", row["epoch"], row["number"]): row["position"] for row in busy}
        redis = Redis.from_url(self.main.urls["redis"])
        try:
            for row in busy:
                position: Any = await redis.hget(f"iot:{row['epoch']}:{row['number']}:head", "position")  # type: ignore[misc]
                found["analysis", row["epoch"], row["number"]] = int(position or 0)
        finally:
            await redis.aclose()
        return found


def busy_partitions(partitions: int) -> set[int]:
    return {partition_of(f"device-{number}", partitions) for number in range(DEVICES)}


async def partitions_held(platform: Platform) -> dict[str, int]:
    async with platform.client("operations") as client:
        text = (await client.get("/metrics")).text
    return {
        sample.labels["role"]: int(sample.value)
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if sample.name == "iotplatform_partitions_held"
    }


@asynccontextmanager
async def deployment(folder: Path) -> AsyncIterator[Deployment]:
    main = await Platform.start(folder / "main", "--roles=management,ingest")
    made = Deployment(main, folder)
    try:
        yield made
    finally:
        for worker in made.workers:
            if worker.process.returncode is None:
                worker.process.send_signal(signal.SIGCONT)
            await worker.stop()
        await main.stop()


@pytest.mark.timeout(420)
@pytest.mark.parametrize("how", ["SIGTERM", "kill -9", "SIGSTOP and SIGCONT"])
async def test_what_one_lets_go_of_another_takes_up(how: str, tmp_path: Path) -> None:
    async with deployment(tmp_path) as shared:
        first = await shared.add_worker()
        load = Load(shared.main.urls["ingest"], ORGANIZATIONS, devices=DEVICES, seed=SEED)
        await load.prepare(shared.main)
        load.start()
        await load.more(300)
        await shared.share(first, within_s=30)

        second = await shared.add_worker()
        print("joined: its share is held after", await shared.share(first, second, within_s=40), "s")
        print("everything moves after", await shared.everything_moves(within_s=30), "s")
        await load.more(500)
        if how == "SIGTERM":
            assert await second.stop() == 0, second.tail()
        elif how == "kill -9":
            await second.kill()
        else:
            second.process.send_signal(signal.SIGSTOP)
        print(how, ": everything is handled again after", await shared.everything_moves(within_s=30), "s")
        if how.startswith("SIGSTOP"):
            await load.more(500)
            second.process.send_signal(signal.SIGCONT)
            print("back: its share is held after", await shared.share(first, second, within_s=40), "s")
            print("everything moves after", await shared.everything_moves(within_s=30), "s")
        else:
            await shared.share(first, within_s=30)
        await load.more(500)
        await load.stop()

        await assert_nothing_lost(shared.main, load)
        assert set(load.statuses) == {"202"}
        for platform in (shared.main, *shared.workers):
            assert faults_in(platform.lines) == []


@pytest.mark.timeout(300)
async def test_a_holder_that_freezes_for_a_moment_again_and_again_does_no_harm(tmp_path: Path) -> None:
    """Around the time after which the others take it for dead, from both sides."""
    async with deployment(tmp_path) as shared:
        first, second = await shared.add_worker(), await shared.add_worker()
        load = Load(shared.main.urls["ingest"], ORGANIZATIONS, devices=DEVICES, seed=SEED + 1)
        await load.prepare(shared.main)
        load.start()
        await shared.share(first, second, within_s=40)
        for worker, frozen_s in ((first, 5.0), (second, 6.5), (first, 8.0), (second, 7.0)):
            worker.process.send_signal(signal.SIGSTOP)
            await load.frozen(frozen_s)
            worker.process.send_signal(signal.SIGCONT)
            await load.more(200)
        await shared.share(first, second, within_s=40)
        await shared.everything_moves(within_s=30)
        await load.stop()
        await assert_nothing_lost(shared.main, load)


@pytest.mark.timeout(300)
async def test_an_organization_that_is_new_is_read_by_whoever_it_belongs_to(tmp_path: Path) -> None:
    async with deployment(tmp_path) as shared:
        await asyncio.gather(shared.add_worker(), shared.add_worker())
        async with shared.main.client() as management, shared.main.client("ingest") as ingest:
            for name in ("first", "second", "third"):
                body = {"id": name, "name": name, "partitions": 4}
                assert (await management.post("/organizations", json=body)).status_code == 201
                readings = [
                    {"organization_id": name, "device_id": f"device-{number}", "sensor_name": "temp", "value": 90.0}
                    for number in range(12)
                ]
                began = time.monotonic()
                for _ in range(3):
                    assert (await ingest.post("/ingest", json=readings)).status_code == 202

                async def alarms(name: str = name) -> bool:
                    answer = (await management.get(f"/organizations/{name}/alarms")).json()
                    ledger = (await management.get(f"/organizations/{name}/ledger")).json()
                    return len(answer["items"]) == 12 and ledger["in_flight"] == 0 and ledger["stored"] == 36

                await eventually(alarms)
                print(name, "is stored, and its alarms are raised, after", time.monotonic() - began, "s")

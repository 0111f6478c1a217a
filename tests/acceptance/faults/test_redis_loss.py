"""Redis loses everything while clients send: alarms are those of an undisturbed run, and latest values stay right."""

from __future__ import annotations

import os
import signal
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from redis.asyncio import Redis

from iotplatform.domain.timestamps import parse_timestamp
from tests.acceptance.faults.test_supervision import pid_of
from tests.support.load import EPOCH_S, Load, assert_nothing_lost
from tests.support.platform import Platform

SEED = 20_261_124
ORGANIZATIONS = {"acme": 1, "globex": 4}


@pytest.fixture
async def platform(tmp_path: Path) -> AsyncIterator[Platform]:
    running = await Platform.start(tmp_path / "data")
    yield running
    assert await running.stop() == 0, running.tail()


@pytest.fixture
async def load(platform: Platform) -> Load:
    made = Load(platform.urls["ingest"], ORGANIZATIONS, devices=6, seed=SEED)
    await made.prepare(platform)
    made.start()
    await made.more(300)
    return made


async def flush(platform: Platform) -> None:
    client = Redis.from_url(platform.urls["redis"])
    try:
        await client.flushall()
    finally:
        await client.aclose()


async def lose_files(platform: Platform) -> None:
    """The files go first and the process at once after them, so that it can't write them again."""
    files = [path for path in (platform.data_dir / "redis").iterdir() if path.name != "redis.conf"]
    assert files
    for path in files:
        path.unlink()
    await kill(platform)


async def kill(platform: Platform) -> None:
    seen = len(platform.lines)
    os.kill(pid_of(platform, "redis"), signal.SIGKILL)
    await platform.log("embedded.restarted", after=seen, where=lambda line: line["server"] == "redis")


@pytest.mark.timeout(400)
@pytest.mark.parametrize("lose", [flush, lose_files])
async def test_a_lost_redis_ends_in_the_alarms_of_an_undisturbed_run(lose: Any, platform: Platform, load: Load) -> None:
    for _ in range(2):
        seen = len(platform.lines)
        await lose(platform)
        await platform.log("analysis.rebuilt", after=seen, within_s=90)
        await load.more(300, within_s=120)
    await load.stop()

    await assert_nothing_lost(platform, load)


@pytest.mark.timeout(400)
async def test_a_killed_redis_has_lost_nothing(platform: Platform, load: Load) -> None:
    for _ in range(3):
        await kill(platform)
        await load.more(150, within_s=120)
    await load.stop()

    await assert_nothing_lost(platform, load)
    # It was synced before it was answered: there was nothing to rebuild.
    assert [line for line in platform.lines if line["action"] == "analysis.rebuilding"] == []


@pytest.mark.timeout(400)
async def test_redis_and_the_platform_are_lost_together(tmp_path: Path) -> None:
    platform = await Platform.start(tmp_path / "data")
    load = Load(platform.urls["ingest"], ORGANIZATIONS, devices=6, seed=SEED)
    await load.prepare(platform)
    load.start()
    await load.more(500)
    await load.stop()
    await flush(platform)
    await platform.kill()
    again = await Platform.start(tmp_path / "data")
    try:
        more = Load(again.urls["ingest"], ORGANIZATIONS, devices=6, seed=SEED + 1)
        more.continue_after(load)
        more.start()
        await more.more(300, within_s=120)
        await more.stop()
        await assert_nothing_lost(again, more)
    finally:
        assert await again.stop() == 0, again.tail()


@pytest.mark.timeout(400)
async def test_latest_values_are_right_while_redis_is_empty_and_after(platform: Platform, load: Load) -> None:
    await load.stop()
    await assert_nothing_lost(platform, load)
    assert await latest_of(platform, "globex") == newest_of(load, "globex")
    await flush(platform)
    assert await latest_of(platform, "globex") == newest_of(load, "globex")

    # What is written into the empty Redis is not taken for everything there is.
    again = Load(load.url, {"globex": 4}, devices=1, seed=SEED)
    again.continue_after(load)
    again.start()
    await again.more(20)
    await again.stop()
    await assert_nothing_lost(platform, again)
    assert await latest_of(platform, "globex") == newest_of(again, "globex")


async def latest_of(platform: Platform, organization: str) -> dict[str, int]:
    async with platform.client() as client:
        items = (await client.get(f"/organizations/{organization}/telemetry/latest")).json()["items"]
    return {item["device_id"]: parse_timestamp(item["timestamp"]) // 1_000_000 - EPOCH_S for item in items}


def newest_of(load: Load, organization: str) -> dict[str, int]:
    """Time in these readings is their number; a client whose answer was lost may have been stored as well."""
    assert load.unknown == set()
    newest: dict[str, int] = {}
    for owner, device, number in load.accepted:
        if owner == organization:
            newest[device] = max(number, newest.get(device, 0))
    return newest

"""The embedded servers are restarted, and stand still for longer than anybody waits for them, while clients send."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.support.load import Load, assert_nothing_lost
from tests.support.platform import Platform
from tests.support.schedule import STOP_SIGNALS, pause

SEED = 23
# Longer than acknowledgements (2 s), answers (10 s) and pings (15 s) are waited for, shorter than a hang (30 s).
PAUSE_S = 17.0

pytestmark = pytest.mark.timeout(300)


@pytest.fixture
async def platform(tmp_path: Path) -> AsyncIterator[Platform]:
    running = await Platform.start(tmp_path / "data")
    yield running
    assert await running.stop() == 0, running.tail()


@pytest.fixture
async def load(platform: Platform) -> Load:
    made = Load(platform.urls["ingest"], {"acme": 1, "globex": 4}, devices=6, seed=SEED)
    await made.prepare(platform)
    made.start()
    await made.more(300)
    return made


async def started(platform: Platform, server: str) -> int:
    line = await platform.log("embedded.started", where=lambda entry: entry["server"] == server)
    return int(line["pid"])


async def test_servers_that_are_restarted_one_after_the_other(platform: Platform, load: Load) -> None:
    for server, how in STOP_SIGNALS.items():
        seen = len(platform.lines)
        os.kill(await started(platform, server), how)
        await platform.log(
            "embedded.restarted",
            after=seen,
            within_s=90,
            where=lambda line, server=server: line["server"] == server,
        )
        await load.more(200)
    await load.stop()

    await assert_nothing_lost(platform, load)


@pytest.mark.parametrize("servers", [["nats"], ["postgres", "redis"]], ids=" ".join)
async def test_servers_that_keep_their_connections_and_do_not_answer(
    servers: list[str], platform: Platform, load: Load
) -> None:
    pids = [await started(platform, server) for server in servers]
    resume = [pause(pid) for pid in pids]
    try:
        await load.frozen(PAUSE_S)
    finally:
        for each in resume:
            each()
    await load.more(300, within_s=90)
    await load.stop()

    await assert_nothing_lost(platform, load)
    # They were waited for, and not taken for dead.
    assert [line for line in platform.lines if line.get("action") == "embedded.restarted"] == []

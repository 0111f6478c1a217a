"""The embedded servers die and freeze while clients send: they come back, and nothing accepted is lost."""

from __future__ import annotations

import os
import signal
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.support.load import Load, assert_nothing_lost
from tests.support.platform import Platform

SEED = 11


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


def pid_of(platform: Platform, server: str) -> int:
    actions = {"embedded.started", "embedded.restarted"}
    return next(
        line["pid"] for line in reversed(platform.lines) if line["action"] in actions and line["server"] == server
    )


@pytest.mark.parametrize("servers", [["nats"], ["postgres"], ["redis"], ["nats", "postgres", "redis"]], ids=" ".join)
async def test_a_killed_server_is_started_again(servers: list[str], platform: Platform, load: Load) -> None:
    seen = len(platform.lines)
    for server in servers:
        os.kill(pid_of(platform, server), signal.SIGKILL)
    for server in servers:
        await platform.log("embedded.restarted", after=seen, where=lambda line, server=server: line["server"] == server)
    await load.more(500)
    await load.stop()

    await assert_nothing_lost(platform, load)


@pytest.mark.parametrize("server", ["nats", "redis", "postgres"])
async def test_a_frozen_server_is_waited_for(server: str, platform: Platform, load: Load) -> None:
    pid = pid_of(platform, server)
    os.kill(pid, signal.SIGSTOP)
    try:
        # Long enough to outlast the stream's acknowledgement time-out, short enough not to be taken for dead.
        await load.frozen(4.0)
    finally:
        os.kill(pid, signal.SIGCONT)
    await load.more(500)
    await load.stop()

    await assert_nothing_lost(platform, load)

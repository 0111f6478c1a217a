"""The platform is stopped and killed while clients send: nothing accepted is lost, nothing is doubled."""

from __future__ import annotations

import signal
from pathlib import Path
from urllib.parse import urlsplit

import psutil
import pytest

from tests.support.load import Load, assert_nothing_lost
from tests.support.platform import Platform

ORGANIZATIONS = {"acme": 1, "globex": 4}
SEED = 20_261_124


def same_ports(platform: Platform) -> dict[str, str]:
    return {f"{name}__port": str(urlsplit(platform.urls[name]).port) for name in ("ingest", "management")}


def alive(processes: list[psutil.Process]) -> list[psutil.Process]:
    """Those that are more than an entry which nobody has collected yet."""
    return [process for process in processes if process.is_running() and process.status() != psutil.STATUS_ZOMBIE]


@pytest.mark.parametrize("how", ["SIGTERM", "kill -9"])
async def test_nothing_accepted_is_lost_and_the_ledger_balances(how: str, tmp_path: Path) -> None:
    platform = await Platform.start(tmp_path / "data")
    load = Load(platform.urls["ingest"], ORGANIZATIONS, devices=6, seed=SEED)
    await load.prepare(platform)
    ports = same_ports(platform)
    load.start()
    for _ in range(2):
        await load.more(500)
        servers = psutil.Process(platform.process.pid).children(recursive=True)
        if how == "SIGTERM":
            assert await platform.stop() == 0, platform.tail()
            assert alive(servers) == []
        else:
            await platform.kill()
        platform = await Platform.start(tmp_path / "data", **ports)
        # What the killed one left behind has been stopped: no server of before is there any more.
        assert alive(servers) == []
    await load.more(500)
    await load.stop()

    await assert_nothing_lost(platform, load)
    assert await platform.stop() == 0, platform.tail()
    assert "202" in load.statuses


async def test_a_second_signal_does_not_cut_the_drain_short(tmp_path: Path) -> None:
    platform = await Platform.start(tmp_path / "data")
    load = Load(platform.urls["ingest"], {"acme": 1}, devices=4, seed=SEED)
    await load.prepare(platform)
    load.start()
    await load.more(200)
    platform.process.send_signal(signal.SIGINT)
    platform.process.send_signal(signal.SIGTERM)
    assert await platform.stop() == 0, platform.tail()
    platform = await Platform.start(tmp_path / "data", **same_ports(platform))
    await load.more(100)
    await load.stop()

    await assert_nothing_lost(platform, load)
    assert await platform.stop() == 0

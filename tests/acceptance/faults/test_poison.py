"""A block that kills whoever handles it: a few restarts, a letter, and nothing else is lost or delayed."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.support.platform import Platform, eventually

# Three tries before blocks are taken up alone, and three alone for each role; and some for chance.
MOST_RESTARTS = 14


def reading(organization: str, device: str, value: float) -> dict[str, Any]:
    return {"organization_id": organization, "device_id": device, "sensor_name": "temp", "value": value}


async def send(platform: Platform, *readings: dict[str, Any]) -> None:
    async with platform.client("ingest") as ingest:
        for one in readings:
            assert (await ingest.post("/ingest", json=one)).status_code == 202


async def prepare(data_dir: Path) -> None:
    """Poison between good blocks, accepted while nobody handles them."""
    platform = await Platform.start(data_dir, "--roles=ingest,management")
    async with platform.client() as client:
        for organization in ("poisoned", "healthy"):
            made = await client.post("/organizations", json={"id": organization, "name": organization})
            assert made.status_code == 201
    await send(
        platform,
        reading("poisoned", "oven", 91.0),
        reading("poisoned", "oven", 92.0),
        reading("poisoned", "poison", 1.0),
        reading("poisoned", "oven", 93.0),
        *[reading("healthy", "oven", 90.0 + number) for number in range(3)],
    )
    assert await platform.stop() == 0, platform.tail()


async def get(platform: Platform, path: str) -> Any:
    async with platform.client() as client:
        return (await client.get(f"/organizations/{path}")).json()


async def state_of(platform: Platform) -> list[Any]:
    paths = ("ledger", "dead-letters", "alarms")
    return [await get(platform, f"{name}/{path}") for name in ("poisoned", "healthy") for path in paths]


async def is_settled(platform: Platform) -> bool:
    entry = await get(platform, "poisoned/ledger")
    healthy = await get(platform, "healthy/ledger")
    letters = (await get(platform, "poisoned/dead-letters"))["items"]
    alarms = [await get(platform, f"{organization}/alarms") for organization in ("poisoned", "healthy")]
    return (
        (entry["in_flight"], entry["unused"], healthy["in_flight"]) == (0, 1, 0)
        and len(letters) == 2
        and all(len(found["items"]) == 1 for found in alarms)
    )


async def assert_settled(platform: Platform) -> None:
    entry = await get(platform, "poisoned/ledger")
    assert (entry["accepted"], entry["stored"], entry["dead_lettered"], entry["balanced"]) == (4, 3, 1, True)
    letters = (await get(platform, "poisoned/dead-letters"))["items"]
    assert {(letter["role"], letter["reason"], letter["readings"]) for letter in letters} == {
        ("analysis", "unevaluable", 1),
        ("persistence", "unstorable", 1),
    }
    assert all("3 times" in letter["detail"] for letter in letters)
    (alarm,) = (await get(platform, "poisoned/alarms"))["items"]
    assert [value for _, value in _pairs(alarm["readings"])] == [91.0, 92.0, 93.0]
    rows = (await get(platform, "poisoned/telemetry?device_id=oven"))["items"]
    assert [row["value"] for row in rows] == [91.0, 92.0, 93.0]
    healthy = await get(platform, "healthy/ledger")
    assert (healthy["stored"], healthy["dead_lettered"], healthy["balanced"]) == (3, 0, True)
    assert (await get(platform, "healthy/dead-letters"))["items"] == []


def _pairs(readings: list[Any]) -> list[tuple[Any, float]]:
    return [tuple(item.values()) if isinstance(item, dict) else tuple(item) for item in readings]


@pytest.mark.timeout(600)
async def test_a_block_that_kills_its_process_costs_a_few_restarts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    await prepare(tmp_path / "data")
    monkeypatch.setenv("POISON", "kill")
    for _ in range(MOST_RESTARTS):
        try:
            platform = await Platform.start(tmp_path / "data", main="tests.support.poison_main")
        except AssertionError:
            continue  # it did not even get ready
        try:
            await eventually(lambda platform=platform: settled_or_ended(platform), within_s=120)
        except TimeoutError:
            state = await state_of(platform)
            await platform.stop()
            raise AssertionError(f"{state}: {platform.tail()}") from None
        if platform.process.returncode is None:
            break
        assert platform.process.returncode == -signal.SIGKILL, platform.tail()
    else:
        raise AssertionError(f"still dying after {MOST_RESTARTS} restarts: {platform.tail()}")
    assert await platform_settled(platform) == 0, platform.tail()


async def platform_settled(platform: Platform) -> int:
    """Its exit code, after everything about it was found to be right."""
    try:
        await assert_settled(platform)
    finally:
        code = await platform.stop()
    return code


async def settled_or_ended(platform: Platform) -> bool:
    """The process may end while it is asked."""
    try:
        return await is_settled(platform)
    except (httpx.HTTPError, ValueError):
        return platform.process.returncode is not None


@pytest.mark.timeout(400)
async def test_a_block_whose_handling_fails_halts_its_own_partition(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    await prepare(tmp_path / "data")
    monkeypatch.setenv("POISON", "raise")
    platform = await Platform.start(tmp_path / "data", main="tests.support.poison_main")

    # The others are handled while it is tried again and again.
    async def healthy() -> bool:
        return len((await get(platform, "healthy/alarms"))["items"]) == 1

    try:
        await eventually(healthy)
        assert (await get(platform, "poisoned/dead-letters"))["items"] == []
        await eventually(lambda: is_settled(platform), within_s=200)
    except BaseException:
        await platform.stop()
        raise
    assert await platform_settled(platform) == 0, platform.tail()

"""Messages vanish from a stream behind the platform's back: the ledger names every one, and forgets none."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import httpx
import nats
import pytest

from tests.support.platform import REPOSITORY, Platform, environment, eventually

pytestmark = pytest.mark.timeout(400)

WITHOUT_PERSISTENCE = "--roles=management,ingest,analysis,notification"


async def ask(platform: Platform, operation: str, body: dict[str, Any]) -> dict[str, Any]:
    """JetStream's API, with the platform's own credentials."""
    client = await nats.connect(platform.urls["nats"])
    try:
        answer: dict[str, Any] = json.loads(
            (await client.request(f"$JS.API.{operation}", json.dumps(body).encode())).data
        )
    finally:
        await client.close()
    assert "error" not in answer, answer
    return answer


async def delete_message(platform: Platform, organization: str, sequence: int) -> None:
    await ask(platform, f"STREAM.MSG.DELETE.ORG_{organization}", {"seq": sequence})


async def make(platform: Platform, organization: str, partitions: int = 1) -> None:
    async with platform.client() as client:
        body = {"id": organization, "name": organization, "partitions": partitions}
        assert (await client.post("/organizations", json=body)).status_code == 201


async def send(platform: Platform, organization: str, blocks: int, *, first: int = 0, devices: int = 1) -> None:
    """One block for each request: each is sent when the one before was answered."""
    async with platform.client("ingest") as client:
        for number in range(first, first + blocks):
            reading = {
                "organization_id": organization,
                "device_id": f"d{number % devices}",
                "sensor_name": "level",
                "value": 1.0,
                "timestamp": 1_700_000_000 + number,
            }
            assert (await client.post("/ingest", json=reading)).status_code == 202


async def ledger_of(platform: Platform, organization: str) -> dict[str, Any]:
    async with platform.client() as client:
        answer = await client.get(f"/organizations/{organization}/ledger")
        assert answer.status_code == 200, answer.text
        entry: dict[str, Any] = answer.json()
        return entry


async def settled(platform: Platform, organization: str, stored: int) -> dict[str, Any]:
    async def check() -> dict[str, Any] | None:
        entry = await ledger_of(platform, organization)
        return entry if (entry["stored"], entry["in_flight"]) == (stored, 0) else None

    found: dict[str, Any] = await eventually(check, within_s=90)
    return found


async def command(platform: Platform, organization: str) -> tuple[int, str]:
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "iotplatform",
        "ledger",
        "--organization",
        organization,
        "--data-dir",
        str(platform.data_dir),
        env=environment(),
        cwd=REPOSITORY,
        stdout=asyncio.subprocess.PIPE,
    )
    out, _ = await process.communicate()
    assert process.returncode is not None
    return process.returncode, out.decode()


class Halves:
    """A platform without persistence, which comes and goes in a process of its own."""

    def __init__(self, folder: Path, stack: AsyncExitStack) -> None:
        self.folder = folder
        self._stack = stack
        self.main: Platform
        self.persistence: Platform | None = None

    async def start(self) -> None:
        self.main = await Platform.start(self.folder / "main", WITHOUT_PERSISTENCE)
        self._stack.push_async_callback(self._end)

    async def start_persistence(self, **settings: str) -> Platform:
        urls = {f"{name}__url": self.main.urls[name] for name in ("nats", "postgres", "redis")}
        self.persistence = await Platform.start(
            self.folder / "persistence", "--roles=persistence", **{**urls, **settings}
        )
        return self.persistence

    async def _end(self) -> None:
        for platform in (self.persistence, self.main):
            if platform is not None:
                await platform.stop()


@pytest.fixture
async def halves(tmp_path: Path) -> AsyncIterator[Halves]:
    async with AsyncExitStack() as stack:
        made = Halves(tmp_path, stack)
        await made.start()
        yield made


async def test_a_block_deleted_before_it_was_stored_is_named_for_ever(halves: Halves) -> None:
    main = halves.main
    await make(main, "acme")
    await send(main, "acme", 6)
    before = await ledger_of(main, "acme")
    assert (before["accepted"], before["in_flight"], before["balanced"], before["gaps"]) == (6, 6, True, [])

    await delete_message(main, "acme", 3)
    at_once = await ledger_of(main, "acme")
    assert at_once["balanced"] is False
    lane, sequence = at_once["gaps"]
    assert lane.startswith("lane ")
    assert lane.endswith(" block 3 (1 readings) is missing in partition 0")
    assert sequence == "sequence 3 of stream ORG_acme was deleted"

    persistence = await halves.start_persistence()
    stored = await settled(main, "acme", 5)
    assert (stored["accepted"], stored["balanced"], stored["gaps"]) == (6, False, at_once["gaps"])
    code, text = await command(main, "acme")
    assert code == 1
    assert f"acme: {lane}" in text
    assert f"acme: {sequence}" in text

    # Stopped, killed, and all servers with it: what was found stays found, and nothing is found twice.
    assert await persistence.stop() == 0
    await send(main, "acme", 2, first=6)
    persistence = await halves.start_persistence()
    assert (await settled(main, "acme", 7))["gaps"] == at_once["gaps"]
    await persistence.kill()
    await main.kill()
    await halves.start()
    await send(halves.main, "acme", 2, first=8)
    await halves.start_persistence()
    after = await settled(halves.main, "acme", 9)
    assert (after["accepted"], after["balanced"], after["gaps"]) == (10, False, at_once["gaps"])


async def test_the_very_last_block_and_one_that_was_stored_already(halves: Halves) -> None:
    main = halves.main
    for organization in ("last", "stored", "purged", "anew"):
        await make(main, organization)
        await send(main, organization, 4)
    # No block comes after it whose number could tell.
    await delete_message(main, "last", 4)
    found = await ledger_of(main, "last")
    assert (found["gaps"], found["balanced"]) == (["sequence 4 of stream ORG_last was deleted"], False)

    persistence = await halves.start_persistence()
    assert (await settled(main, "last", 3))["gaps"] == ["sequence 4 of stream ORG_last was deleted"]
    for organization in ("stored", "purged", "anew"):
        entry = await settled(main, organization, 4)
        assert (entry["balanced"], entry["gaps"]) == (True, [])

    await delete_message(main, "stored", 2)
    entry = await ledger_of(main, "stored")
    assert (entry["balanced"], entry["gaps"]) == (False, ["sequence 2 of stream ORG_stored was deleted"])
    assert (await command(main, "stored"))[0] == 1

    await ask(main, "STREAM.PURGE.ORG_purged", {"seq": 4})
    assert (await ledger_of(main, "purged"))["gaps"] == ["sequences 1 to 3 of stream ORG_purged were deleted"]

    await ask(main, "STREAM.DELETE.ORG_anew", {})
    assert (await ledger_of(main, "anew"))["gaps"] == [
        "stream ORG_anew ends below sequence 4, to which partition 0 was handled already"
    ]

    async def shown() -> bool:
        async with persistence.client("operations") as client:
            text = (await client.get("/metrics")).text
        lines = text.splitlines()
        return {
            'iotplatform_ledger_gaps{organization="last"} 1.0',
            'iotplatform_ledger_imbalance_readings{organization="last"} 0.0',
            'iotplatform_ledger_gaps{organization="purged"} 1.0',
        } <= set(lines)

    await eventually(shown, within_s=90)


async def test_what_was_found_stays_known_when_trimming_has_passed_it(halves: Halves) -> None:
    main = halves.main
    await make(main, "trimmed", 2)
    await send(main, "trimmed", 10, devices=4)
    await delete_message(main, "trimmed", 5)
    before = await ledger_of(main, "trimmed")
    assert "sequence 5 of stream ORG_trimmed was deleted" in before["gaps"]
    await halves.start_persistence(streams__keep_s="0")
    await settled(main, "trimmed", 9)

    async def trimmed() -> bool:
        answer = await ask(main, "STREAM.INFO.ORG_trimmed", {})
        return int(answer["state"]["messages"]) <= 2

    await eventually(trimmed, within_s=90)
    after = await ledger_of(main, "trimmed")
    assert sorted(after["gaps"]) == sorted(before["gaps"])
    assert after["balanced"] is False


async def test_an_ordinary_run_with_trimming_has_no_gaps(tmp_path: Path) -> None:
    platform = await Platform.start(tmp_path / "data", streams__keep_s="0")
    try:
        await make(platform, "calm", 4)
        sent = 0
        removed = False
        while not removed:
            await send(platform, "calm", 20, first=sent, devices=16)
            sent += 20
            entry = await ledger_of(platform, "calm")
            assert (entry["accepted"], entry["balanced"], entry["gaps"]) == (sent, True, [])
            state = (await ask(platform, "STREAM.INFO.ORG_calm", {}))["state"]
            removed = int(state["last_seq"]) - int(state["messages"]) > 20
        # Trimmed once; what comes after the next start and the next cut finds nothing either.
        assert await platform.stop() == 0
        platform = await Platform.start(tmp_path / "data", streams__keep_s="0")
        await send(platform, "calm", 20, first=sent, devices=16)
        entry = await settled(platform, "calm", sent + 20)
        assert (entry["balanced"], entry["gaps"]) == (True, [])
        code, text = await command(platform, "calm")
        assert (code, "missing" in text) == (0, False)
    except httpx.HTTPError:
        raise AssertionError(platform.tail()) from None
    finally:
        assert await platform.stop() == 0

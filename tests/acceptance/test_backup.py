"""A platform that is backed up, put back elsewhere, and is what it was."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.support.contents import ORG, PASSWORD, Contents, everything, reading, send
from tests.support.platform import Platform, environment, eventually


async def command(*arguments: str, **settings: str) -> tuple[int, str]:
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        *("-m", "iotplatform", *arguments),
        env=environment(**settings),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    output, _ = await process.communicate()
    return process.returncode or 0, output.decode()


def lasting(answers: dict[str, Any]) -> dict[str, Any]:
    """Without who is online just now, and who was seen when: what was seen last is written at the stop."""
    if isinstance(answers, dict):
        return {name: lasting(value) for name, value in answers.items() if name not in {"online", "last_seen_at"}}
    return [lasting(value) for value in answers] if isinstance(answers, list) else answers


async def _fill_and_stop(folder: Path) -> tuple[Contents, dict[str, Any]]:
    platform = await Platform.start(folder, strict=False)
    try:
        made = await Contents.make(platform)
        async with platform.client() as client:
            before = await everything(client)
        code, output = await command("backup", "--data-dir", str(folder), "--to", str(folder.parent / "early.tar"))
        assert (code, "stop it, and start it again afterwards" in output) == (78, True), output
    finally:
        stopped = await platform.stop()
    assert stopped == 0, platform.tail()
    return made, before


async def _is_what_it_was(platform: Platform, made: Contents, before: dict[str, Any]) -> None:
    async with platform.client() as client, platform.client("ingest") as ingest:
        after = await everything(client)
        assert lasting(after) == lasting(before)
        # Who had a credential still has it.
        person = {"email": "eva@example.org", "password": PASSWORD}
        assert (await client.post("/auth/login", json=person)).status_code == 200
        headers = {"Authorization": f"Bearer {made.tokens['/api-keys']}"}
        assert (await client.get(f"/organizations/{ORG}/devices", headers=headers)).status_code == 200
        token = {"Authorization": f"Bearer {made.tokens['/{org}/devices/fridge']}"}
        # The third breach in a row, two of which were counted before.
        third = {"device_id": "fridge", "sensor_name": "temp", "value": 99.0, "timestamp": 1_700_000_009}
        assert (await ingest.post("/ingest", json=third, headers=token)).status_code == 202

        async def raised() -> bool:
            alarms = (await client.get(f"/organizations/{ORG}/alarms?device_id=fridge")).json()["items"]
            return [alarm["state"] for alarm in alarms] == ["active"]

        await eventually(raised)


@pytest.mark.timeout(240)
async def test_everything_is_there_again(tmp_path: Path) -> None:
    made, before = await _fill_and_stop(tmp_path / "a")
    backup, restored = tmp_path / "b.tar", tmp_path / "c"
    code, output = await command("backup", "--data-dir", str(tmp_path / "a"), "--to", str(backup))
    assert code == 0, output
    assert backup.stat().st_mode & 0o777 == 0o600
    code, output = await command("restore", "--data-dir", str(restored), "--from", str(backup))
    assert code == 0, output
    assert [path for path in restored.rglob("*") if path.stat().st_mode & 0o077] == []

    platform = await Platform.start(restored, strict=False)
    try:
        await _is_what_it_was(platform, made, before)
        async with platform.client("ingest") as ingest:
            await send(ingest, [reading("oven", "last", float(number), number) for number in range(100)])
    finally:
        # Its servers are left running, and what they wrote last is in their files.
        await platform.kill()

    code, output = await command("backup", "--data-dir", str(restored), "--to", str(tmp_path / "d"))
    assert code == 0, output
    code, output = await command("restore", "--data-dir", str(tmp_path / "e"), "--from", str(tmp_path / "d"))
    assert code == 0, output
    platform = await Platform.start(tmp_path / "e", strict=False)
    try:
        async with platform.client() as client:

            async def accounted() -> bool:
                ledger = (await client.get(f"/organizations/{ORG}/ledger")).json()
                counts = (ledger["accepted"], ledger["stored"], ledger["in_flight"])
                return bool(ledger["balanced"]) and counts == (113, 113, 0)

            await eventually(accounted)
            last = await client.get(f"/organizations/{ORG}/telemetry?device_id=oven&sensor=last&limit=1000")
            assert [item["value"] for item in last.json()["items"]] == [float(number) for number in range(100)]
    finally:
        assert await platform.stop() == 0


async def test_of_servers_elsewhere_there_is_no_backup(tmp_path: Path) -> None:
    code, output = await command("backup", "--to", str(tmp_path / "b"), postgres__url="postgresql://a@b/c")
    assert (code, output.startswith("iotplatform: postgres.url is set")) == (78, True), output


async def test_where_no_platform_is_there_is_nothing_to_back_up(tmp_path: Path) -> None:
    code, output = await command("backup", "--data-dir", str(tmp_path / "a"), "--to", str(tmp_path / "b"))
    assert (code, "holds no platform" in output, list(tmp_path.iterdir())) == (78, True, []), output

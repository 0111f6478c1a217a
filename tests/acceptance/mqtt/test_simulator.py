"""`iotplatform simulate --protocol mqtt`."""

from __future__ import annotations

import asyncio
import subprocess
import sys


async def test_a_fleet_publishes_by_mqtt(fleet, platform):
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "iotplatform", "simulate", "--data-dir", str(platform.data_dir), "--protocol", "mqtt",
        "--organization", fleet.organization, "--devices", "3", "--rate", "60", "--duration", "1",
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    output, errors = await process.communicate()
    assert process.returncode == 0, errors.decode()
    assert "accepted" in output.decode()
    sent = int(next(part for part in errors.decode().split() if part.isdigit()))
    await fleet.stored(sent)


async def test_a_server_that_is_not_there_is_one_clear_line(fleet, platform):
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "iotplatform", "simulate", "--data-dir", str(platform.data_dir), "--protocol", "mqtt",
        "--organization", fleet.organization, "--duration", "1", "--mqtt-url", "mqtt://127.0.0.1:1",
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    _, errors = await process.communicate()
    assert process.returncode == 1
    assert "cannot reach mqtt://127.0.0.1:1" in errors.decode()

"""Real data: a machine's temperature until its failure, replayed and compared with the file itself."""

from __future__ import annotations

import asyncio
import csv
import sys
from pathlib import Path
from typing import Any

import httpx

from tests.support.platform import Platform, environment, eventually

FILE = "tests/data/nab/machine_temperature_system_failure.csv"


def rows_of(file: Path) -> list[tuple[str, float]]:
    with file.open() as lines:
        next(lines)
        return [(f"{at.replace(' ', 'T')}.000000Z", float(value)) for at, value in csv.reader(lines)]


def episodes_of(rows: list[tuple[str, float]]) -> list[tuple[str, str | None]]:
    """Raised and cleared times by the default rule, independently: over 80, three in a row; one good reading clears."""
    episodes: list[tuple[str, str | None]] = []
    streak, active = 0, False
    for at, value in rows:
        streak = streak + 1 if value > 80.0 else 0
        if not active and streak == 3:
            episodes.append((at, None))
            active = True
        elif active and value <= 80.0:
            episodes[-1] = (episodes[-1][0], at)
            active = False
    return episodes


async def all_items(client: httpx.AsyncClient, path: str) -> list[dict[str, Any]]:
    items: list[dict[str, Any]] = []
    cursor: str | None = None
    while True:
        answer = await client.get(path, params={"limit": 1_000, **({"cursor": cursor} if cursor else {})})
        assert answer.status_code == 200, answer.text
        items += answer.json()["items"]
        cursor = answer.json()["next_cursor"]
        if cursor is None:
            return items


async def test_alarms_and_rows_are_those_of_the_file(platform: Platform, repository: Path) -> None:
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "iotplatform",
        "simulate",
        "--csv",
        FILE,
        "--data-dir",
        str(platform.data_dir),
        cwd=repository,
        env=environment(),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    output, errors = await process.communicate()
    assert process.returncode == 0, errors
    assert b"readings accepted: 22695" in output

    rows = rows_of(repository / FILE)
    expected = episodes_of(rows)
    assert len(rows) == 22_695
    async with platform.client() as client:

        async def done() -> bool:
            ledger = (await client.get("/organizations/lab/ledger")).json()
            alarms = await all_items(client, "/organizations/lab/alarms")
            found = sorted((alarm["raised_at"], alarm["cleared_at"]) for alarm in alarms)
            return ledger["stored"] == len(rows) and ledger["balanced"] and found == sorted(expected)

        await eventually(done)
        stored = await all_items(client, "/organizations/lab/telemetry")

    # The last reading of a time wins; the file holds some times twice, and once jumps back.
    assert [(item["timestamp"], item["value"]) for item in stored] == sorted(dict(rows).items())
    assert {(item["device_id"], item["sensor"]) for item in stored} == {("machine", "temperature")}

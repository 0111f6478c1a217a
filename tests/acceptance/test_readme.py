"""The README is true: its commands are run, and what it shows is what comes out."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.platform import READY_S, environment

WITHIN_S = 15.0
PORTS = {"ingest": "8080", "management": "8081", "operations": "9464", "nats_monitor": "8222"}

Step = tuple[str, str]


def steps_of(readme: str) -> list[Step]:
    """Every command behind a `$ ` in a console block, with the output shown below it."""
    steps: list[Step] = []
    for block in re.findall(r"```console\n(.*?)```", readme, re.DOTALL):
        for part in re.split(r"^\$ ", block, flags=re.MULTILINE)[1:]:
            command, _, output = part.partition("\n")
            steps.append((command, output.strip()))
    return steps


def shows(expected: str, output: str) -> bool:
    """Whether the output is what the README shows, where `…` stands for anything."""
    pattern = ".*?".join(re.escape(piece) for piece in expected.split("…"))
    return re.fullmatch(pattern, output.strip(), re.DOTALL) is not None


class MakeRun:
    """`make run` in this checkout, on free ports and with a data directory of its own."""

    def __init__(self, process: asyncio.subprocess.Process, data_dir: Path) -> None:
        self._process = process
        self._data_dir = data_dir
        self._printed = b""

    @classmethod
    async def start(cls, repository: Path, data_dir: Path) -> MakeRun:
        process = await asyncio.create_subprocess_exec(
            "make",
            "run",
            cwd=repository,
            env={**environment(data_dir=str(data_dir)), "PATH": os.environ["PATH"]},
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            start_new_session=True,
        )
        return cls(process, data_dir)

    async def until_ready(self) -> str:
        assert self._process.stdout is not None
        async with asyncio.timeout(READY_S):
            while b"telemetry/latest" not in self._printed:
                chunk = await self._process.stdout.readline()
                assert chunk, f"make run ended: {self._printed.decode()}"
                self._printed += chunk
        return self.as_in_readme(self._printed.decode())

    @property
    def urls(self) -> dict[str, Any]:
        return json.loads((self._data_dir / "runtime.json").read_text())

    def as_in_readme(self, text: str) -> str:
        for name, port in PORTS.items():
            text = text.replace(self.urls[name], f"http://127.0.0.1:{port}")
        return text.replace(self.urls["mqtt"], "mqtt://127.0.0.1:1883")

    async def run(self, command: str, repository: Path) -> str:
        for name, port in PORTS.items():
            command = command.replace(f"http://localhost:{port}", self.urls[name])
        command = command.replace(".venv/bin/iotplatform", f"{sys.executable} -m iotplatform")
        process = await asyncio.create_subprocess_exec(
            "bash",
            "-c",
            command,
            cwd=repository,
            env=environment(data_dir=str(self._data_dir)),
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.DEVNULL,
        )
        output, _ = await process.communicate()
        return output.decode()

    async def stop(self) -> int:
        assert self._process.stdout is not None
        os.killpg(self._process.pid, signal.SIGTERM)
        async with asyncio.timeout(60):
            await self._process.stdout.read()
            return await self._process.wait()


@pytest.fixture
async def made(repository: Path, tmp_path: Path) -> AsyncIterator[MakeRun]:
    run = await MakeRun.start(repository, tmp_path / "data")
    yield run
    await run.stop()


async def test_its_commands_do_what_it_shows(made: MakeRun, repository: Path) -> None:
    (first, banner), *others = steps_of((repository / "README.md").read_text())

    assert first == "make run"
    printed = await made.until_ready()
    assert shows(f"…{banner}", printed), printed
    assert len(others) >= 10
    for command, expected in others:
        output = await made.run(command, repository)
        # What is read follows what was accepted within moments; what is written must not be sent twice.
        if "-X POST" not in command and "simulate" not in command:
            async with asyncio.timeout(WITHIN_S):
                while not shows(expected, output):
                    await asyncio.sleep(0.1)
                    output = await made.run(command, repository)
        assert shows(expected, output), f"{command}\n{output}"


def test_its_links_lead_somewhere(repository: Path) -> None:
    links = re.findall(r"\]\((?!http)([^)#]+)\)", (repository / "README.md").read_text())

    assert links
    assert [link for link in links if not (repository / link).exists()] == []

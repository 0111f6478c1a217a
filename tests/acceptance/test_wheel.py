"""The built wheel runs anywhere: migrations and default configuration travel inside it."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

from tests.support.platform import environment


async def run(*command: str, cwd: Path) -> None:
    process = await asyncio.create_subprocess_exec(
        *command, cwd=cwd, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
    )
    output, _ = await process.communicate()
    assert process.returncode == 0, output.decode()


async def test_the_wheel_serves_from_another_folder(repository: Path, tmp_path: Path) -> None:
    await run(sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path / "dist"), cwd=repository)
    (wheel,) = (tmp_path / "dist").glob("iotplatform-*.whl")
    clean, work = tmp_path / "clean", tmp_path / "work"
    work.mkdir()
    # The dependencies are those of this environment; the project itself must come out of the wheel alone.
    install = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index", "--target", str(clean)]
    await run(*install, str(wheel), cwd=work)
    settings = {**environment(data_dir=str(work / "data")), "PYTHONPATH": str(clean)}
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "iotplatform", "serve", cwd=work, env=settings, stderr=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.DEVNULL,
    )  # fmt: skip
    assert process.stderr is not None
    async with asyncio.timeout(60):
        line = await process.stderr.readline()
    process.terminate()
    async with asyncio.timeout(60):
        _, rest = await process.communicate()

    assert b"iotplatform is ready" in line, (line + rest).decode()
    assert process.returncode == 0
    assert (clean / "iotplatform" / "_migrations" / "env.py").exists()
    assert (clean / "iotplatform" / "_config" / "example.toml").exists()

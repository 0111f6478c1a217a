"""A platform as its users have it: a process, its ports, its log lines."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any, Self

import httpx

REPOSITORY = Path(__file__).parent.parent.parent
READY_S = 60.0
WAIT_S = 30.0

# A port of 0 takes a free one, so that suites can run side by side.
FREE_PORTS = {
    f"IOTPLATFORM_{name}": "0"
    for name in (
        "INGEST__PORT",
        "MANAGEMENT__PORT",
        "OPERATIONS__PORT",
        "EMBEDDED__NATS_PORT",
        "EMBEDDED__NATS_MONITOR_PORT",
        "EMBEDDED__MQTT_PORT",
    )
}


def environment(**settings: str) -> dict[str, str]:
    """The environment of a platform: ours without its settings, free ports, and `section__key="value"` settings."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith("IOTPLATFORM_")}
    given = {f"IOTPLATFORM_{name.upper()}": value for name, value in settings.items()}
    return {**clean, **FREE_PORTS, "IOTPLATFORM_LOG__FORMAT": "json", "PYTHONPATH": str(REPOSITORY), **given}


class Platform:
    """`iotplatform serve` as a child process."""

    def __init__(self, process: asyncio.subprocess.Process, data_dir: Path) -> None:
        self.process = process
        self.data_dir = data_dir
        self.lines: list[dict[str, Any]] = []
        self.errors: list[str] = []
        self.urls: dict[str, str] = {}
        self._new_line = asyncio.Condition()
        self._readers: list[asyncio.Task[None]] = []

    @classmethod
    async def start(
        cls,
        data_dir: Path,
        *arguments: str,
        strict: bool = True,
        main: str = "tests.support.strict_main",
        wrapper: Sequence[str] = (),
        **settings: str,
    ) -> Self:
        """Returns when it is ready. `main` is the module that runs it, unless it is to be the plain program.

        `wrapper` is a command in front that becomes the platform's process.
        """
        program = ["-m", main] if strict else ["-m", "iotplatform"]
        process = await asyncio.create_subprocess_exec(
            *wrapper,
            sys.executable,
            *program,
            "serve",
            "--data-dir",
            str(data_dir),
            *arguments,
            env=environment(**settings),
            cwd=REPOSITORY,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            limit=1 << 24,
        )
        platform = cls(process, data_dir)
        platform._watch()
        try:
            await platform.log("platform.ready", within_s=READY_S)
        except BaseException:
            await platform.kill()
            raise
        platform.urls = json.loads((data_dir / "runtime.json").read_text())
        return platform

    def _watch(self) -> None:
        loop = asyncio.get_running_loop()
        self._readers = [loop.create_task(self._read_lines()), loop.create_task(self._read_errors())]

    async def _read_lines(self) -> None:
        assert self.process.stdout is not None
        async for line in self.process.stdout:
            try:
                entry = json.loads(line)
            except json.JSONDecodeError:
                self.errors.append(line.decode(errors="replace"))
                continue
            async with self._new_line:
                self.lines.append(entry)
                self._new_line.notify_all()
        async with self._new_line:
            self._new_line.notify_all()

    async def _read_errors(self) -> None:
        assert self.process.stderr is not None
        async for line in self.process.stderr:
            self.errors.append(line.decode(errors="replace"))

    async def log(
        self,
        action: str,
        *,
        after: int = 0,
        within_s: float = WAIT_S,
        where: Callable[[dict[str, Any]], bool] = lambda _: True,
    ) -> dict[str, Any]:
        """The first log line of an action, beginning with line `after`, as soon as there is one."""
        seen = after
        async with asyncio.timeout(within_s), self._new_line:
            while True:
                for entry in self.lines[seen:]:
                    if entry.get("action") == action and where(entry):
                        return entry
                seen = len(self.lines)
                if self.process.returncode is not None or (self._readers and self._readers[0].done()):
                    raise AssertionError(f"the platform ended before {action}: {self.tail()}")
                await self._new_line.wait()

    def tail(self) -> str:
        return "\n".join([*map(str, self.lines[-20:]), *self.errors[-40:]])

    @contextlib.asynccontextmanager
    async def client(self, which: str = "management", **options: Any) -> AsyncIterator[httpx.AsyncClient]:
        async with httpx.AsyncClient(base_url=self.urls[which], timeout=30, **options) as client:
            yield client

    async def stop(self, within_s: float = 60.0) -> int:
        """SIGTERM, and the exit code."""
        if self.process.returncode is None:
            self.process.send_signal(signal.SIGTERM)
        return await self._ended(within_s)

    async def ended(self, within_s: float = 60.0) -> int:
        """The exit code of one that was told to stop before."""
        return await self._ended(within_s)

    async def kill(self) -> None:
        if self.process.returncode is None:
            self.process.kill()
        await self._ended(30.0)

    async def _ended(self, within_s: float) -> int:
        async with asyncio.timeout(within_s):
            code = await self.process.wait()
            # Servers that outlive a kill -9 of their parent hold its standard error open: don't wait for its end.
            _, pending = await asyncio.wait(self._readers, timeout=2)
        for reader in pending:
            reader.cancel()
        return code


async def eventually(check: Callable[[], Awaitable[Any]], *, within_s: float = WAIT_S) -> Any:
    """The first true result of `check`, asked again and again: for what is outside and can't be awaited."""
    async with asyncio.timeout(within_s):
        while True:
            if result := await check():
                return result
            await asyncio.sleep(0.05)

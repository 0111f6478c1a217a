"""The platform as several processes, each started anew when it ends, as a supervisor outside does it."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from tests.support.platform import Platform

HOLDER = "management"
SERVERS = ("nats", "postgres", "redis")
# Its embedded servers may be away for as long as it likes; it is tried again and again for so long.
STARTED_WITHIN_S = 180.0

# How many processes of each role there are beside the one that holds the servers.
ONE_OF_EACH: Mapping[str, int] = {"ingest": 1, "analysis": 1, "notification": 1, "persistence": 1}


class Member:
    """One process. `platform` is replaced whenever it is started anew, on the same ports and data directory."""

    def __init__(self, name: str, role: str, data_dir: Path, settings: dict[str, str]) -> None:
        self.name = name
        self.role = role
        self.settings = settings
        self.platform: Platform
        # Held by whoever stops and starts the process on purpose.
        self.turn = asyncio.Lock()
        self.starts = 0
        # What it said when it ended by itself: nothing that happens to a server is a reason for that.
        self.deaths: list[str] = []
        self.failed_starts: list[str] = []
        self._data_dir = data_dir
        self._strict = True
        self._earlier_lines: list[dict[str, Any]] = []

    async def start(self, *, strict: bool) -> None:
        self._strict = strict
        until = time.monotonic() + STARTED_WITHIN_S
        while True:
            try:
                self.platform = await Platform.start(
                    self._data_dir, f"--roles={self.role}", strict=strict, **self.settings
                )
            except (AssertionError, TimeoutError) as error:
                self.failed_starts.append(str(error)[-2_000:])
                if time.monotonic() > until:
                    raise
                continue
            break
        self.starts += 1
        for listener in ("ingest", "management", "operations"):
            if url := self.platform.urls.get(listener):
                self.settings[f"{listener}__port"] = str(urlsplit(url).port)

    async def start_again(self) -> None:
        self._earlier_lines = [*self._earlier_lines, *_telling(self.platform.lines)][-400:]
        await self.start(strict=self._strict)

    def tail(self) -> dict[str, Any]:
        """What it has said, without the lines of everyday."""
        lines = [*self._earlier_lines, *_telling(self.platform.lines)][-400:]
        return {
            "starts": self.starts,
            "deaths": self.deaths,
            "failed_starts": self.failed_starts,
            "lines": lines,
            "errors": self.platform.errors[-40:],
        }


def _telling(lines: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [line for line in lines if line.get("level") != "info" or not str(line.get("action")).count(".")] + [
        line for line in lines if str(line.get("action")).startswith(("embedded.", "platform.", "nats."))
    ]


class Deployment:
    """The holder of the servers, which is management too, and the other roles in processes of their own."""

    def __init__(self, members: dict[str, Member]) -> None:
        self.members = members
        self._keepers: list[asyncio.Task[None]] = []

    @property
    def holder(self) -> Platform:
        return self.members[HOLDER].platform

    @property
    def ingest_urls(self) -> list[str]:
        return [member.platform.urls["ingest"] for member in self.members.values() if member.role == "ingest"]

    def server_pid(self, server: str) -> int | None:
        """None while none runs, as far as the holder has said."""
        actions = {"embedded.started", "embedded.restarted"}
        for line in reversed(self.holder.lines):
            if line.get("server") == server and line.get("action") in {*actions, "embedded.died"}:
                return int(line["pid"]) if line["action"] in actions else None
        return None

    def deaths(self) -> list[str]:
        return [f"{member.name}: {death}" for member in self.members.values() for death in member.deaths]

    def keep(self) -> None:
        """From now on a process that ends by itself is started again, and its death written down."""
        loop = asyncio.get_running_loop()
        self._keepers = [loop.create_task(self._keep(member)) for member in self.members.values()]

    async def _keep(self, member: Member) -> None:
        while True:
            platform = member.platform
            await platform.process.wait()
            async with member.turn:
                if member.platform is platform:
                    member.deaths.append(f"exit code {platform.process.returncode}: {platform.tail()[-4_000:]}")
                    await member.start_again()

    async def stop(self) -> list[int]:
        """The exit codes; the holder's is the last."""
        for keeper in self._keepers:
            keeper.cancel()
        await asyncio.gather(*self._keepers, return_exceptions=True)
        codes = [
            await member.platform.stop(within_s=120)
            for name, member in reversed(self.members.items())
            if name != HOLDER
        ]
        return [*codes, await self.holder.stop(within_s=120)]

    async def kill(self) -> None:
        for keeper in self._keepers:
            keeper.cancel()
        pids = [pid for server in SERVERS if (pid := self.server_pid(server))]
        for member in self.members.values():
            with contextlib.suppress(ProcessLookupError):
                member.platform.process.send_signal(signal.SIGCONT)
            await member.platform.kill()
        # They outlive their holder.
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


@asynccontextmanager
async def deployed(
    folder: Path,
    layout: Mapping[str, int] = ONE_OF_EACH,
    *,
    strict: bool = True,
    holder_settings: Mapping[str, str] | None = None,
    **settings: str,
) -> AsyncIterator[Deployment]:
    """`layout` says how many processes each role has; `settings` are given to all, `holder_settings` to one."""
    folder.mkdir(parents=True, exist_ok=True)
    holder = Member(HOLDER, "management", folder / HOLDER, {**settings, **(holder_settings or {})})
    await holder.start(strict=strict)
    urls = {f"{name}__url": settings.get(f"{name}__url") or holder.platform.urls[name] for name in SERVERS}
    if "nats__url" not in settings:
        # Started again it must be found where it was.
        for name, url in (("nats", "nats"), ("nats_monitor", "nats_monitor")):
            holder.settings[f"embedded__{name}_port"] = str(urlsplit(holder.platform.urls[url]).port)
    deployment = Deployment({HOLDER: holder})
    try:
        others = [
            Member(name, role, folder / name, {**settings, **urls})
            for role, count in layout.items()
            for name in _names(role, count)
        ]
        await asyncio.gather(*(member.start(strict=strict) for member in others))
        deployment.members.update({member.name: member for member in others})
        deployment.keep()
        yield deployment
    except BaseException:
        await deployment.kill()
        raise


def _names(role: str, count: int) -> Sequence[str]:
    return [role] if count == 1 else [f"{role}-{number}" for number in range(count)]

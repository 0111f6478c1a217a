"""A real InfluxDB 1, as Debian packages it."""

from __future__ import annotations

import asyncio
import os
import shutil
import socket
import subprocess
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from aiohttp import web

from iotplatform.adapters.influx.settings import InfluxSettings
from tests.support.platform import eventually

CONFIGURATION = """
reporting-disabled = true
bind-address = "127.0.0.1:0"
[meta]
  dir = "{directory}/meta"
[data]
  dir = "{directory}/data"
  wal-dir = "{directory}/wal"
  query-log-enabled = false
[monitor]
  store-enabled = false
[http]
  bind-address = "127.0.0.1:{port}"
  log-enabled = false
  max-body-size = {max_body}
  auth-enabled = {auth}
"""


def require_influxd() -> None:
    require_program("influxd", "influxdb")


def require_program(program: str, package: str) -> str:
    """In CI nothing may be left out; elsewhere a server that is not there is."""
    if found := shutil.which(program):
        return found
    reason = f"{program} is missing: apt-get install {package}"
    if os.environ.get("CI_STRICT"):
        pytest.fail(f"{reason}, and CI_STRICT is set")
    pytest.skip(reason)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class InfluxServer:
    """`start` may be called again after `kill`: the data and the port stay."""

    def __init__(self, directory: Path, *, max_body: int = 25_000_000, auth: bool = False) -> None:
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self._file = directory / "influxdb.conf"
        self._file.write_text(
            CONFIGURATION.format(directory=directory, port=self.port, max_body=max_body, auth=str(auth).lower())
        )
        self.credentials: tuple[str, str] | None = None
        self._process: asyncio.subprocess.Process | None = None

    async def start(self) -> None:
        self._process = await asyncio.create_subprocess_exec(
            "influxd", "-config", str(self._file), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )

        async def answers() -> bool:
            async with httpx.AsyncClient() as client:
                try:
                    return (await client.get(f"{self.url}/ping")).status_code == 204
                except httpx.TransportError:
                    return False

        await eventually(answers)

    async def kill(self) -> None:
        if self._process is not None and self._process.returncode is None:
            self._process.kill()
            await self._process.wait()

    async def write(self, database: str, line: str) -> None:
        """With a time in microseconds."""
        async with httpx.AsyncClient(auth=self.credentials) as client:
            answer = await client.post(f"{self.url}/write", params={"db": database, "precision": "u"}, content=line)
        assert answer.status_code == 204, answer.text

    async def query(self, *statements: str, database: str = "") -> list[dict[str, Any]]:
        async with httpx.AsyncClient(auth=self.credentials) as client:
            answer = await client.post(
                f"{self.url}/query", params={"db": database, "epoch": "u"}, data={"q": "; ".join(statements)}
            )
        results: list[dict[str, Any]] = answer.json()["results"]
        assert not any("error" in result for result in results), results
        return results


async def open_influx(directory: Path, stack: AsyncExitStack) -> InfluxSettings:
    """One with a database, for as long as the stack is open; or that of `TEST_INFLUX_URL` (docs/storage.md)."""
    if url := os.environ.get("TEST_INFLUX_URL"):
        rest = {name: os.environ.get(f"TEST_INFLUX_{name.upper()}", "") for name in ("bucket", "token", "org")}
        return InfluxSettings(url, **rest, api="v1" if os.environ.get("TEST_INFLUX_API") == "v1" else "v2")
    require_influxd()
    server = InfluxServer(directory)
    await server.start()
    stack.push_async_callback(server.kill)
    await server.query("CREATE DATABASE iotplatform")
    return InfluxSettings(server.url, "iotplatform", api="v1")


class Gate:
    """Stands before an InfluxDB: what is written is refused with `status` while there is one, or where it is large."""

    def __init__(self, behind: InfluxServer) -> None:
        self._behind = behind
        self._client = httpx.AsyncClient(base_url=behind.url)
        self.status: int | None = None
        self.largest: int | None = None
        self.refused = 0

    @asynccontextmanager
    async def open(self) -> AsyncIterator[str]:
        """Its URL."""
        app = web.Application(client_max_size=1 << 25)
        app.router.add_route("*", "/{path:.*}", self._answer)
        runner = web.AppRunner(app)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        try:
            yield f"http://127.0.0.1:{runner.addresses[0][1]}"
        finally:
            await runner.cleanup()
            await self._client.aclose()

    async def _answer(self, request: web.Request) -> web.Response:
        body = await request.read()  # aiohttp unpacks it
        if request.path == "/write":
            status = 413 if self.largest is not None and len(body) > self.largest else self.status
            if status is not None:
                self.refused += 1
                return web.Response(status=status, text='{"error":"not now"}', headers={"Retry-After": "1"})
        kept = {"Content-Type": request.headers.get("Content-Type", "")}
        answer = await self._client.post(request.path, params=dict(request.query), content=body, headers=kept)
        return web.Response(status=answer.status_code, body=answer.content)

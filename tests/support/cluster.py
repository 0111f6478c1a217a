"""Three nats-servers that are one, from the template of the guide."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx

from iotplatform.adapters.embedded.programs import find_nats_server
from tests.support.platform import REPOSITORY, eventually

TEMPLATE = REPOSITORY / "config" / "nats" / "cluster.conf"
SIZE = 3
PASSWORD = "a-password"


class ClusterServer:
    """One of them. Killed, it comes back with its data by `start`."""

    def __init__(self, number: int, folder: Path, ports: list[tuple[int, int, int]]) -> None:
        self.name = f"nats-{number}"
        self.port, monitor, routes = ports[number]
        self.monitor_url = f"http://127.0.0.1:{monitor}"
        self._folder = folder / self.name
        self._process: asyncio.subprocess.Process | None = None
        self._environment = {
            **os.environ,
            "NATS_NAME": self.name,
            "NATS_LISTEN": f"127.0.0.1:{self.port}",
            "NATS_MONITOR": f"127.0.0.1:{monitor}",
            "NATS_STORE": json.dumps(str(self._folder)),
            "NATS_CLUSTER_LISTEN": f"127.0.0.1:{routes}",
            "NATS_ROUTES": json.dumps([f"nats://routes:{PASSWORD}@127.0.0.1:{port}" for *_, port in ports]),
            **{f"NATS_{name}_PASSWORD": json.dumps(PASSWORD) for name in ("ROUTES", "PLATFORM", "SYS")},
        }

    async def start(self) -> None:
        self._folder.mkdir(exist_ok=True)
        program = await asyncio.to_thread(find_nats_server)
        with (self._folder / "nats.log").open("ab") as log:
            self._process = await asyncio.create_subprocess_exec(
                str(program), "-c", str(TEMPLATE), env=self._environment, stdout=log, stderr=log
            )

    async def stop(self, how: signal.Signals = signal.SIGTERM) -> None:
        if self._process is not None:
            self._process.send_signal(how)
            await self._process.wait()
            self._process = None

    def send(self, how: signal.Signals) -> None:
        assert self._process is not None
        self._process.send_signal(how)

    @property
    def runs(self) -> bool:
        return self._process is not None

    async def ask(self, path: str) -> Any:
        async with httpx.AsyncClient(timeout=5) as client:
            return (await client.get(f"{self.monitor_url}/{path}")).json()


class NatsCluster:
    def __init__(self, servers: list[ClusterServer]) -> None:
        self.servers = servers

    @property
    def url(self) -> str:
        hosts = ",".join(f"127.0.0.1:{server.port}" for server in self.servers)
        return f"nats://platform:{PASSWORD}@{hosts}"

    async def healthy(self, within_s: float = 60.0) -> None:
        """Until every one that runs is up to date with all its streams and consumers."""

        async def check() -> bool:
            try:
                answers = [await server.ask("healthz") for server in self.servers if server.runs]
            except httpx.HTTPError:
                return False
            return all(answer["status"] == "ok" for answer in answers)

        await eventually(check, within_s=within_s)

    async def meta_leader(self) -> ClusterServer:
        async def find() -> ClusterServer | None:
            return self._named((await self._any().ask("jsz")).get("meta_cluster", {}).get("leader"))

        return await eventually(find)

    async def stream_leader(self, stream: str) -> ClusterServer:
        async def find() -> ClusterServer | None:
            for account in (await self._any().ask("jsz?accounts=1&streams=1"))["account_details"]:
                for detail in account.get("stream_detail", []):
                    if detail["name"] == stream:
                        return self._named(detail.get("cluster", {}).get("leader"))
            return None

        return await eventually(find)

    def _any(self) -> ClusterServer:
        return next(server for server in self.servers if server.runs)

    def _named(self, name: str | None) -> ClusterServer | None:
        return next((server for server in self.servers if server.name == name and server.runs), None)


@asynccontextmanager
async def nats_cluster(folder: Path) -> AsyncIterator[NatsCluster]:
    folder.mkdir(parents=True, exist_ok=True)
    ports = _free_ports(3 * SIZE)
    triples = [(ports[3 * number], ports[3 * number + 1], ports[3 * number + 2]) for number in range(SIZE)]
    cluster = NatsCluster([ClusterServer(number, folder, triples) for number in range(SIZE)])
    try:
        await asyncio.gather(*(server.start() for server in cluster.servers))
        await cluster.meta_leader()
        await cluster.healthy()
        yield cluster
    finally:
        await asyncio.gather(*(server.stop(signal.SIGKILL) for server in cluster.servers))


def _free_ports(count: int) -> list[int]:
    # All held at once, so that none is given out twice.
    held = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [each.getsockname()[1] for each in held]
    for each in held:
        each.close()
    return ports

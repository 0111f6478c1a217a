"""What a load balancer does: it asks every process whether it is ready, and sends requests to those that are."""

from __future__ import annotations

import asyncio
import collections
import itertools
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

import httpx

from tests.support.load import Load, Sent
from tests.support.platform import Platform

ASKED_EVERY_S = 0.1
PACE_S = 0.02


class Balancer:
    """Between processes with fixed ports. It tries nothing twice: what fails behind it has failed."""

    def __init__(self, members: Mapping[str, Platform]) -> None:
        self._urls = {name: dict(platform.urls) for name, platform in members.items()}
        self._turns = itertools.count()
        self.ready = set(self._urls)

    def pick(self, listener: str) -> str:
        ready = sorted(self.ready)
        return self._urls[ready[next(self._turns) % len(ready)]][listener]

    @asynccontextmanager
    async def asking(self) -> AsyncIterator[None]:
        loop = asyncio.get_running_loop()
        tasks = [loop.create_task(self._ask(name)) for name in self._urls]
        try:
            yield
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _ask(self, name: str) -> None:
        async with httpx.AsyncClient(timeout=1) as client:
            while True:
                try:
                    ready = (await client.get(f"{self._urls[name]['operations']}/readyz")).status_code == 200
                except httpx.HTTPError:
                    ready = False
                (self.ready.add if ready else self.ready.discard)(name)
                await asyncio.sleep(ASKED_EVERY_S)


class BalancedLoad(Load):
    """Devices in front of the balancer."""

    def __init__(self, balancer: Balancer, organizations: dict[str, int], *, devices: int, seed: int) -> None:
        super().__init__("", organizations, devices=devices, seed=seed)
        self._balancer = balancer

    def address(self) -> str:
        return self._balancer.pick("ingest")

    async def _note(self, sent: Sent, answer: httpx.Response) -> None:
        await super()._note(sent, answer)
        # Enough for something to be under way at any moment; the processes that start need the machine as well.
        await asyncio.sleep(PACE_S)


class People:
    """They look at alarms and values, and register devices, all the time."""

    def __init__(self, balancer: Balancer, organization: str) -> None:
        self.statuses: collections.Counter[str] = collections.Counter()
        self._balancer = balancer
        self._organization = organization

    @asynccontextmanager
    async def working(self) -> AsyncIterator[None]:
        stopping = asyncio.Event()
        task = asyncio.get_running_loop().create_task(self._work(stopping))
        yield
        stopping.set()
        await task

    async def _work(self, stopping: asyncio.Event) -> None:
        async with httpx.AsyncClient(timeout=30) as client:
            for turn in itertools.count():
                if stopping.is_set():
                    return
                device: dict[str, Any] = {"id": f"new-{turn}", "name": "New"}
                for method, path, body in (
                    ("GET", "alarms", None),
                    ("POST", "devices", device),
                    ("GET", "telemetry/latest", None),
                ):
                    url = f"{self._balancer.pick('management')}/organizations/{self._organization}/{path}"
                    try:
                        answer = await client.request(method, url, json=body)
                    except httpx.HTTPError as error:
                        self.statuses[f"{path}: {type(error).__name__}"] += 1
                    else:
                        self.statuses[str(answer.status_code)] += 1
                await asyncio.sleep(0.05)

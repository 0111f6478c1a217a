"""A small real HTTP server in the platform's place. It answers like the contract and writes down what it was asked."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from iotplatform.simulator.endpoints import Endpoints


class FakePlatform:
    """Both ports in one. `answers` holds what the next POSTs to `/ingest` get instead of 202."""

    def __init__(self):
        self.organizations: set[str] = set()
        self.created: list[dict] = []
        self.batches: list[list[dict]] = []
        self.authorizations: list[str | None] = []
        self.answers: list[web.Response | str] = []
        self.management_status: int | None = None
        self.creation_status = 201
        self.management_requests = 0
        self.in_flight = 0
        self.most_in_flight = 0
        self.devices_in_flight: set[str] = set()
        self.overtaken = False
        self.asked = asyncio.Event()
        self.gate = asyncio.Event()
        self.gate.set()
        self.url = ""

    def endpoints(self):
        return Endpoints(self.url, self.url)

    def readings(self):
        return [reading for batch in self.batches for reading in batch]

    def application(self):
        application = web.Application()
        application.router.add_get("/organizations/{organization}", self._look)
        application.router.add_post("/organizations", self._create)
        application.router.add_post("/ingest", self._ingest)
        return application

    async def _look(self, request):
        self.management_requests += 1
        if self.management_status:
            return web.Response(status=self.management_status)
        return web.Response(status=200 if request.match_info["organization"] in self.organizations else 404)

    async def _create(self, request):
        self.management_requests += 1
        body = await request.json()
        self.created.append(body)
        self.organizations.add(body["id"])
        return web.Response(status=self.creation_status)

    async def _ingest(self, request):
        self.authorizations.append(request.headers.get("Authorization"))
        batch = await request.json()
        devices = {reading["device_id"] for reading in batch}
        self.overtaken |= bool(devices & self.devices_in_flight)
        self.devices_in_flight |= devices
        self.in_flight += 1
        self.most_in_flight = max(self.most_in_flight, self.in_flight)
        self.asked.set()
        try:
            await self.gate.wait()
            self.batches.append(batch)
            answer = self.answers.pop(0) if self.answers else None
            if answer == "hang up":
                request.transport.close()
                return web.Response()
            return answer or web.json_response({"status": "accepted", "accepted": len(batch)}, status=202)
        finally:
            self.in_flight -= 1
            self.devices_in_flight -= devices


@pytest.fixture
async def platform() -> AsyncIterator[FakePlatform]:
    fake = FakePlatform()
    async with TestServer(fake.application()) as server:
        fake.url = str(server.make_url("/")).rstrip("/")
        yield fake
        fake.gate.set()


@pytest.fixture
def problem():
    """An RFC 9457 answer."""

    def make(status, detail, *, errors=(), retry_after=None):
        headers = {} if retry_after is None else {"Retry-After": retry_after}
        return web.json_response(
            {"type": "about:blank", "title": "T", "status": status, "detail": detail, "errors": list(errors)},
            status=status,
            headers=headers,
            content_type="application/problem+json",
        )

    return make


@pytest.fixture(autouse=True)
def no_blocking_calls() -> None:
    """Off: the command is called as a function here, and is a process of its own otherwise."""

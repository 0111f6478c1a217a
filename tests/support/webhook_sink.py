"""A server that webhooks lead to: it keeps what it was sent, and answers as a test says."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import msgspec
from aiohttp import web


class Got(msgspec.Struct, frozen=True):
    path: str
    headers: dict[str, str]
    body: bytes

    @property
    def document(self) -> dict[str, Any]:
        found: dict[str, Any] = msgspec.json.decode(self.body)
        return found


class WebhookSink:
    """`answers` are given one after the other, then 204; a request to /hang is never answered."""

    def __init__(self) -> None:
        self.got: list[Got] = []
        self.answers: list[web.Response] = []
        self.port = 0
        self._more = asyncio.Condition()
        self._never = asyncio.Event()

    def url(self, path: str = "/hook") -> str:
        return f"http://127.0.0.1:{self.port}{path}"

    async def wait(self, count: int, within_s: float = 30.0) -> list[Got]:
        async with asyncio.timeout(within_s), self._more:
            await self._more.wait_for(lambda: len(self.got) >= count)
        return self.got

    def end(self) -> None:
        self._never.set()

    async def handle(self, request: web.Request) -> web.StreamResponse:
        got = Got(request.path, dict(request.headers), await request.read())
        async with self._more:
            self.got.append(got)
            self._more.notify_all()
        if request.path == "/hang":
            await self._never.wait()
        return self.answers.pop(0) if self.answers else web.Response(status=204)


@asynccontextmanager
async def webhook_sink() -> AsyncIterator[WebhookSink]:
    sink = WebhookSink()
    application = web.Application()
    application.router.add_route("*", "/{path:.*}", sink.handle)
    runner = web.AppRunner(application, access_log=None)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    sink.port = runner.addresses[0][1]
    try:
        yield sink
    finally:
        sink.end()
        await runner.cleanup()

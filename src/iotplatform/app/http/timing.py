"""How long answers take until their first byte, and how they end, in counts."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable

from litestar.enums import ScopeType
from litestar.types import Message, Receive, Scope, Send

from iotplatform.observability.metrics import Metrics

Asgi = Callable[[Scope, Receive, Send], Awaitable[None]]


class Timed:
    def __init__(self, app: Asgi, metrics: Metrics) -> None:
        self._app = app
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != ScopeType.HTTP:
            await self._app(scope, receive, send)
            return
        began = time.perf_counter()

        async def noted(message: Message) -> None:
            if message["type"] == "http.response.start":
                self._metrics.management_request.record(time.perf_counter() - began)
                self._metrics.management_requests.add(1, f"{message['status'] // 100}xx")
            await send(message)

        await self._app(scope, receive, noted)

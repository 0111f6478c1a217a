"""Server-Sent Events as a client reads them."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any, NamedTuple

import httpx

from tests.support.platform import eventually


class Event(NamedTuple):
    name: str
    id: str
    data: dict[str, Any]


class EventStream:
    """`comments` counts the lines that carry nothing."""

    def __init__(self, response: httpx.Response) -> None:
        self.events: list[Event] = []
        self.comments = 0
        self._lines = response.aiter_lines()

    async def next(self, within_s: float = 15.0) -> Event:
        """Raises StopAsyncIteration when the server ends the stream."""
        fields: dict[str, str] = {}
        async with asyncio.timeout(within_s):
            async for line in self._lines:
                if not line and "event" in fields:
                    event = Event(fields["event"], fields["id"], json.loads(fields["data"]))
                    self.events.append(event)
                    return event
                name, _, value = line.partition(":")
                self.comments += bool(line) and not name
                fields[name] = value.strip()
        raise StopAsyncIteration

    async def until(self, found: Callable[[Event], bool], within_s: float = 30.0) -> list[Event]:
        """All events up to the one that was looked for."""
        seen: list[Event] = []
        async with asyncio.timeout(within_s):
            while not seen or not found(seen[-1]):
                seen.append(await self.next(within_s))
        return seen


@asynccontextmanager
async def follow(
    client: httpx.AsyncClient, path: str, after: str | None = None, **query: Any
) -> AsyncIterator[EventStream]:
    """A stream of one's own; one that has just been left may have its place for a moment longer."""
    headers = {"Accept": "text/event-stream"} | ({"Last-Event-ID": after} if after else {})
    request = client.build_request("GET", path, params=query, headers=headers, timeout=60)
    async with AsyncExitStack() as stack:

        async def open_stream() -> httpx.Response | None:
            response = await client.send(request, stream=True)
            if response.status_code == 429:
                await response.aclose()
                return None
            stack.push_async_callback(response.aclose)
            return response

        response = await eventually(open_stream, within_s=10)
        assert response.status_code == 200, await response.aread()
        assert response.headers["content-type"].startswith("text/event-stream")
        yield EventStream(response)

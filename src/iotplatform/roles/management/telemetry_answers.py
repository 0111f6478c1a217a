"""Answers with telemetry: a page, or everything as a stream.

A query that breaks its deadline or its bound of rows ends with an error that names it. Once a stream has begun its
status can't be changed: NDJSON ends with a line `{"error": …}`, and with every format the connection is broken before
the end of the body, so that no client takes a part for the whole.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing, asynccontextmanager
from typing import Any, Final

import structlog
from litestar import Request, Response
from litestar.types import Receive, Scope, Send

from iotplatform.domain.querying.query import TelemetryQuery
from iotplatform.errors import PlatformError, Unavailable
from iotplatform.roles.management.connected import while_connected
from iotplatform.roles.management.context import ManagementContext
from iotplatform.roles.management.paging import Page, encode_cursor
from iotplatform.roles.management.telemetry_formats import FORMATS, Csv, Ndjson, Parquet, ReadingAnswer, answer_of
from iotplatform.roles.management.telemetry_results import Item, chunks, items

log = structlog.get_logger(role="management")

ROWS_PER_GROUP: Final = 50_000
_LAST_US: Final = 253_402_214_400_000_000


@asynccontextmanager
async def running(context: ManagementContext, epoch: int) -> AsyncIterator[None]:
    """One of the organization's slots, for no longer than the deadline."""
    limit = context.query_limits.deadline_s
    deadline = asyncio.timeout(limit)
    try:
        async with deadline, context.query_slots.take(epoch):
            yield
    except TimeoutError as error:
        if not deadline.expired():
            raise
        detail = f"the query took longer than {limit:g} s (query.deadline_s): ask for a shorter range or fewer series"
        raise Unavailable(detail, retry_after_s=limit) from error


async def page_of(context: ManagementContext, epoch: int, query: TelemetryQuery, limit: int) -> Page[ReadingAnswer]:
    """A page of points ends with a whole series."""
    found: list[Item] = []
    more = False
    bound = context.query_limits.max_rows
    async with running(context, epoch), aclosing(items(context.queries, epoch, query, bound)) as rows:
        async for item in rows:
            if len(found) >= limit and (query.points is None or item[:2] != found[-1][:2]):
                more = True
                break
            found.append(item)
    cursor = None
    if more:
        device_id, sensor, at, _ = found[-1]
        cursor = encode_cursor((device_id, sensor, at if query.points is None else _LAST_US))
    return Page([answer_of(item) for item in found], cursor)


class TelemetryStream(Response[Any]):
    def __init__(self, context: ManagementContext, epoch: int, query: TelemetryQuery, media_type: str) -> None:
        super().__init__(None, media_type=media_type)
        self._made = (context, epoch, query, media_type)
        self._format: Ndjson | Csv | Parquet = FORMATS[media_type]()

    def to_asgi_response(self, app: Any, request: Request[Any, Any, Any], **kwargs: Any) -> Any:  # noqa: ARG002
        return self._answer

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:  # noqa: ARG002
        await while_connected(receive, self._send(send))

    async def _send(self, send: Send) -> None:
        context, epoch, query, media_type = self._made
        headers = [(b"content-type", media_type.encode()), (b"cache-control", b"no-store")]
        started = False
        try:
            async with running(context, epoch), aclosing(self._parts(context, epoch, query)) as parts:
                async for part in parts:
                    if not started:
                        await send({"type": "http.response.start", "status": 200, "headers": headers})
                        started = True
                    if part:
                        await send({"type": "http.response.body", "body": part, "more_body": True})
        except PlatformError as error:
            if started:
                log.warning("management.query_broken", detail=str(error))
                if last := self._format.failure({"detail": str(error)}):
                    await send({"type": "http.response.body", "body": last, "more_body": True})
            raise
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _parts(
        self, context: ManagementContext, epoch: int, query: TelemetryQuery
    ) -> AsyncGenerator[bytes, None]:
        least = ROWS_PER_GROUP if isinstance(self._format, Parquet) else 1
        gathered: list[Item] = []
        found = chunks(context.queries, epoch, query, context.query_limits.max_rows)
        async with aclosing(found) as rows:
            async for chunk in rows:
                gathered += chunk
                if len(gathered) >= least:
                    yield self._format.rows(gathered)
                    gathered.clear()
        if gathered:
            yield self._format.rows(gathered)
        yield self._format.end()

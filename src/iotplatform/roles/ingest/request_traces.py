"""The span of a request, and that of the block which takes its readings along."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from litestar.types import Scope

from iotplatform.roles.ingest.request import Request, TracedRequest

if TYPE_CHECKING:
    from iotplatform.observability.tracing import Span, Tracer


@asynccontextmanager
async def traced(tracer: Tracer, scope: Scope) -> AsyncIterator[None]:
    """For the task of this request, which has a context of its own."""
    span = tracer.begin_request(dict(scope["headers"]))
    if span is None:
        yield
        return
    try:
        with tracer.about(span):
            yield
    except BaseException as error:
        span.finish(type(error).__name__)
        raise
    span.finish()


def begin_block(tracer: Tracer, requests: Sequence[Request], subject: str, readings: int) -> Span | None:
    """One span for all of them: it goes on with the trace of the first, and is linked to the others'."""
    traces = [request.traceparent for request in requests if isinstance(request, TracedRequest)]
    if not traces:
        return None
    return tracer.begin("block publish", traces[0], traces[1:], subject=subject, readings=readings)

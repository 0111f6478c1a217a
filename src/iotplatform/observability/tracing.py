"""Traces of single requests, from the door to the row and the notification, exported by OTLP where it is configured.

Whoever could record a span asks first whether there is a tracer: without one that is all that tracing costs. Spans are
exported by a thread of its own from a queue that drops what does not fit, so a collector that is away holds up nobody.
"""

from __future__ import annotations

import logging
import random
import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Final

import structlog
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace import Span as SdkSpan
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult
from opentelemetry.trace import Link, NonRecordingSpan, SpanContext, Status, StatusCode, TraceFlags, set_span_in_context

from iotplatform import __version__

log = structlog.get_logger()

# A sender can ask for a trace of each of its requests; it does not get more than this of them.
MOST_PER_SECOND: Final = 100
MOST_LINKS: Final = 32
QUEUED_SPANS: Final = 2_048
EXPORT_EVERY_MS: Final = 1_000
EXPORT_WITHIN_S: Final = 3


_WELL_FORMED: Final = re.compile(r"(?!ff)[0-9a-f]{2}-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})")
# The traceparent of the request that a task is about.
_current: ContextVar[str | None] = ContextVar("current_trace", default=None)

Attributes = Mapping[str, str | int | float | bool]


class Span:
    """One that is under way. `traceparent` is what those below it are given."""

    __slots__ = ("_span", "traceparent")

    def __init__(self, span: SdkSpan) -> None:
        self._span = span
        context = span.get_span_context()
        self.traceparent = f"00-{context.trace_id:032x}-{context.span_id:016x}-01"

    @property
    def trace_id(self) -> str:
        return self.traceparent[3:35]

    def finish(self, error: str | None = None, **attributes: str | float | bool) -> None:
        if not self._span.is_recording():
            return
        self._span.set_attributes(attributes)
        if error is not None:
            self._span.set_status(Status(StatusCode.ERROR, error))
        self._span.end()


class Tracer:
    def __init__(self, exporter: SpanExporter, ratio: float, now: Callable[[], float] = time.monotonic) -> None:
        self._ratio = ratio
        self._now = now
        self._provider = TracerProvider(
            resource=Resource.create({"service.name": "iotplatform", "service.version": __version__})
        )
        self._provider.add_span_processor(
            BatchSpanProcessor(exporter, max_queue_size=QUEUED_SPANS, schedule_delay_millis=EXPORT_EVERY_MS)
        )
        self._tracer = self._provider.get_tracer("iotplatform")
        # Requests that were picked by their share, and whose spans have yet to begin.
        self._owed = 0
        self._second = 0.0
        self._in_second = 0

    @classmethod
    def to(cls, endpoint: str, ratio: float, lost: Callable[[int], None]) -> Tracer:
        """`endpoint` is the collector's, without the path. `lost` is told of spans that could not be exported."""
        _silence_the_driver()
        url = f"{endpoint.rstrip('/')}/v1/traces"
        return cls(_Exporter(OTLPSpanExporter(endpoint=url, timeout=EXPORT_WITHIN_S), lost), ratio)

    def picks(self) -> bool:
        """Whether the next request is one of the share that is traced; its span is to begin by `begin_request`."""
        if random.random() >= self._ratio:  # noqa: S311 - nothing secret
            return False
        self._owed += 1
        return True

    def begin_request(
        self, name: str, traceparent: str | None, *, owed: bool = False, since: int | None = None, **attributes: str
    ) -> Span | None:
        """A span for a request or a message whose sender traces it, or which was picked; None: not this one.

        `owed`: it may be one that `picks` has picked. `since`: when it arrived, in microseconds.
        """
        parent = _parse(traceparent) if traceparent is not None else None
        if parent is not None:
            wanted = parent.trace_flags.sampled
        elif owed and self._owed > 0:
            self._owed -= 1
            wanted = True
        else:
            wanted = random.random() < self._ratio  # noqa: S311
        if not wanted or not self._has_room():
            return None
        return self._begin(name, parent, (), attributes, since)

    def begin(self, name: str, parent: str, links: Sequence[str] = (), **attributes: str | float | bool) -> Span:
        """A span below another one, linked to further ones, as far as there are not too many."""
        found = [context for link in links[:MOST_LINKS] if (context := _parse(link)) is not None]
        return self._begin(name, _parse(parent), found, attributes)

    @staticmethod
    def current() -> str | None:
        """The traceparent of the request that this task is about."""
        return _current.get()

    @staticmethod
    @contextmanager
    def about(span: Span) -> Iterator[None]:
        """What this task does meanwhile is about the span's request, and says so in its log lines."""
        token = _current.set(span.traceparent)
        try:
            with structlog.contextvars.bound_contextvars(trace_id=span.trace_id):
                yield
        finally:
            _current.reset(token)

    def close(self) -> None:
        """Export what is left, as far as somebody takes it in time. It blocks."""
        self._provider.shutdown()

    def _begin(
        self,
        name: str,
        parent: SpanContext | None,
        links: Sequence[SpanContext],
        attributes: Attributes,
        since: int | None = None,
    ) -> Span:
        context = None if parent is None else set_span_in_context(NonRecordingSpan(parent))
        span = self._tracer.start_span(
            name,
            context=context,
            links=[Link(link) for link in links],
            attributes=dict(attributes),
            start_time=None if since is None else since * 1_000,
        )
        assert isinstance(span, SdkSpan)  # noqa: S101 - who is not sampled does not get here
        return Span(span)

    def _has_room(self) -> bool:
        now = self._now()
        if now - self._second >= 1:
            self._second, self._in_second = now, 0
        self._in_second += 1
        return self._in_second <= MOST_PER_SECOND


class _Exporter(SpanExporter):
    """Says once that the collector is away, and once that it is back."""

    def __init__(self, exporter: SpanExporter, lost: Callable[[int], None]) -> None:
        self._exporter = exporter
        self._lost = lost
        self._is_away = False

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        try:
            result = self._exporter.export(spans)
        except Exception as error:  # noqa: BLE001 - whatever the driver's own library raises
            log.debug("traces.export_failed", detail=str(error))
            result = SpanExportResult.FAILURE
        failed = result is not SpanExportResult.SUCCESS
        if failed:
            self._lost(len(spans))
        if failed and not self._is_away:
            log.warning("traces.not_exported", detail="the collector does not take them; is otlp.endpoint right?")
        elif self._is_away and not failed:
            log.info("traces.exported_again")
        self._is_away = failed
        return result

    def shutdown(self) -> None:
        self._exporter.shutdown()


def _parse(traceparent: str) -> SpanContext | None:
    """None when it is none: whoever sent it has a request to make, not a trace."""
    found = _WELL_FORMED.fullmatch(traceparent)
    if found is None:
        return None
    context = SpanContext(
        int(found[1], 16), int(found[2], 16), is_remote=True, trace_flags=TraceFlags(int(found[3], 16))
    )
    return context if context.is_valid else None


def _silence_the_driver() -> None:
    """It would log a line for every try, and a traceback for some."""
    for name in ("opentelemetry.exporter.otlp.proto.http.trace_exporter", "opentelemetry.sdk", "urllib3"):
        logging.getLogger(name).setLevel(logging.CRITICAL)

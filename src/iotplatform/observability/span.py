"""What those see of a span who pass it on: nothing of OpenTelemetry is loaded where nobody traces."""

from __future__ import annotations

from typing import Protocol


class Span(Protocol):
    """One that is under way. `traceparent` is what those below it are given."""

    traceparent: str

    @property
    def trace_id(self) -> str: ...

    def finish(self, error: str | None = None, **attributes: str | float | bool) -> None: ...

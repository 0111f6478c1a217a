"""What those see of a span who pass it on: nothing of OpenTelemetry is loaded where nobody traces."""

from __future__ import annotations

from typing import Protocol

from iotplatform.errors import PlatformError
from iotplatform.observability.secrecy import hide_secrets


class Span(Protocol):
    """One that is under way. `traceparent` is what those below it are given."""

    traceparent: str

    @property
    def trace_id(self) -> str: ...

    def finish(self, error: str | None = None, **attributes: str | float | bool) -> None:
        """Once; who comes later changes nothing."""


def error_of(error: BaseException) -> str:
    """What a span says of it. What is not our own may quote anything, so only its kind is told."""
    if not isinstance(error, PlatformError):
        return type(error).__name__
    return hide_secrets(f"{type(error).__name__}: {error}".encode("utf-8", "backslashreplace")).decode()

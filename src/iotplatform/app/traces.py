"""Traces, where the settings or the standard environment variable name a collector."""

from __future__ import annotations

import asyncio
import os
from importlib import import_module
from typing import TYPE_CHECKING

from iotplatform.app.settings_sections import Otlp
from iotplatform.observability.metrics import Metrics

if TYPE_CHECKING:
    from iotplatform.observability.tracing import Tracer


async def open_tracer(settings: Otlp, metrics: Metrics) -> Tracer | None:
    """None: nobody traces anything, and nothing of it is loaded."""
    endpoint = settings.endpoint or os.environ.get("OTEL_EXPORTER_OTLP_ENDPOINT")
    if not endpoint:
        return None
    tracing = await asyncio.to_thread(import_module, "iotplatform.observability.tracing")
    tracer: Tracer = tracing.Tracer.to(endpoint, settings.ratio, metrics.spans_lost.add)
    return tracer

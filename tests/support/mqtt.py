"""A device that speaks MQTT, and what a test needs to talk about it."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from typing import Any
from urllib.parse import urlsplit

import aiomqtt

from tests.support.platform import Platform


def address_of(platform: Platform, listener: str = "mqtt") -> tuple[str, int]:
    parts = urlsplit(platform.urls[listener])
    assert parts.hostname is not None
    assert parts.port is not None
    return parts.hostname, parts.port


@contextlib.asynccontextmanager
async def device(
    platform: Platform, organization: str, name: str, token: str | None = None, **options: Any
) -> AsyncIterator[aiomqtt.Client]:
    """Connected under its own client id, with its token if it has one."""
    host, port = address_of(platform)
    options.setdefault("identifier", f"{organization}:{name}")
    async with aiomqtt.Client(
        host,
        port,
        username=name if token else None,
        password=token,
        protocol=aiomqtt.ProtocolVersion.V311,
        timeout=15,
        **options,
    ) as client:
        yield client

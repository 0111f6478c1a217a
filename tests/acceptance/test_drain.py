"""What is still under way when the platform is told to stop, and doesn't come to an end."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from urllib.parse import urlsplit

from tests.support.platform import Platform


async def begin(url: str, path: str) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """A request that has sent one byte of its body."""
    parts = urlsplit(url)
    reader, writer = await asyncio.open_connection(parts.hostname, parts.port)
    fields = "Host: localhost\r\nContent-Type: application/json\r\nContent-Length: 100\r\nExpect: 100-continue\r\n"
    writer.write(f"POST {path} HTTP/1.1\r\n{fields}\r\n{{".encode())
    # The route waits for the body.
    assert await reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
    return reader, writer


async def test_a_client_that_never_ends_its_body_does_not_keep_it_from_stopping(tmp_path: Path) -> None:
    platform = await Platform.start(tmp_path / "data")
    slow = [await begin(platform.urls["ingest"], "/ingest"), await begin(platform.urls["management"], "/organizations")]

    assert await platform.stop(within_s=150) == 0

    for reader, writer in slow:
        head, _, body = (await reader.read()).partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 503 ")
        assert b"content-type: application/problem+json" in head.lower()
        assert "unknown" in json.loads(body)["detail"]
        writer.close()
    assert [line for line in platform.lines if "exception" in line] == []

"""What is no request at all, or one without end, is refused like everything else, and the connection is closed."""

from __future__ import annotations

import asyncio
import json
from urllib.parse import urlsplit

import pytest

from tests.support.platform import Platform

HOST = b"Host: localhost\r\n"
GET = b"GET /schema/openapi.json HTTP/1.1\r\n" + HOST


async def exchange(url: str, *pieces: bytes) -> bytes:
    """Everything that comes back for `pieces`, until the platform closes."""
    parts = urlsplit(url)
    reader, writer = await asyncio.open_connection(parts.hostname, parts.port)
    try:
        async with asyncio.timeout(60):
            for piece in pieces:
                writer.write(piece)
                await writer.drain()
            return await reader.read()
    finally:
        writer.close()


def refusal(answer: bytes) -> tuple[int, str]:
    """Status and type of the problem document that `answer` consists of."""
    head, _, body = answer.partition(b"\r\n\r\n")
    fields = dict(line.lower().split(b": ", 1) for line in head.split(b"\r\n")[1:])
    assert fields[b"content-type"] == b"application/problem+json"
    assert int(fields[b"content-length"]) == len(body)
    assert fields[b"connection"] == b"close"
    problem = json.loads(body)
    assert answer.startswith(b"HTTP/1.1 %d " % problem["status"])
    assert problem["detail"]
    return problem["status"], problem["type"].rpartition(":")[2]


@pytest.mark.parametrize("port", ["ingest", "management", "operations"])
@pytest.mark.parametrize(
    "request_bytes",
    [
        pytest.param(b"hello\r\n\r\n", id="no request line"),
        pytest.param(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(200), id="TLS"),
        pytest.param(b"BREW / HTTP/1.1\r\n" + HOST + b"\r\n", id="unknown method"),
        pytest.param(b"POST /ingest HTTP/1.1\r\n" + HOST + b"Content-Length: -1\r\n\r\n", id="negative length"),
        pytest.param(
            b"POST /ingest HTTP/1.1\r\n" + HOST + b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n",
            id="two lengths",
        ),
    ],
)
async def test_what_is_no_http(request_bytes: bytes, port: str, platform: Platform) -> None:
    assert refusal(await exchange(platform.urls[port], request_bytes)) == (400, "malformed")


@pytest.mark.parametrize(
    "head",
    [
        pytest.param(GET + b"X: " + b"y" * 70_000 + b"\r\n\r\n", id="one header"),
        pytest.param(GET + b"".join(b"x-%d: y\r\n" % number for number in range(10_000)) + b"\r\n", id="many headers"),
        pytest.param(b"GET /" + b"a" * 65_530 + b" HTTP/1.1\r\n" + HOST + b"\r\n", id="path"),
    ],
)
async def test_a_head_that_is_too_large(head: bytes, platform: Platform) -> None:
    assert refusal(await exchange(platform.urls["management"], head)) == (431, "request_header_fields_too_large")


async def test_a_head_without_end_is_not_gathered(platform: Platform) -> None:
    pieces = [b"y" * 65_536] * 1_000

    with pytest.raises(ConnectionError):
        await exchange(platform.urls["management"], GET + b"X: ", *pieces)


async def test_requests_in_a_row_have_a_bound_each(platform: Platform) -> None:
    one = GET + b"X: " + b"y" * 50_000 + b"\r\n"

    answer = await exchange(platform.urls["operations"], *[one + b"\r\n"] * 3, one + b"Connection: close\r\n\r\n")

    assert answer.count(b"HTTP/1.1 200 OK\r\n") == 4


async def test_an_upgrade_is_not_taken(platform: Platform) -> None:
    head = GET + b"Connection: Upgrade, close\r\nUpgrade: websocket\r\n\r\n"

    assert (await exchange(platform.urls["management"], head)).startswith(b"HTTP/1.1 200 OK\r\n")


@pytest.mark.parametrize(("port", "path"), [("ingest", "/ingest"), ("management", "/auth/login")])
async def test_bodies_that_are_only_announced_keep_nobody_out(port: str, path: str, platform: Platform) -> None:
    """As many as would fill the memory for bodies if announcing were enough."""
    async with platform.client() as client:
        assert (await client.put("/organizations/honest", json={"name": "H"})).status_code in {200, 201}
    parts = urlsplit(platform.urls[port])
    fields = HOST + b"Content-Type: application/json\r\nContent-Length: 1048576\r\n\r\n["
    head = b"POST " + path.encode() + b" HTTP/1.1\r\n" + fields
    held = []
    try:
        for _ in range(150):
            reader, writer = await asyncio.open_connection(parts.hostname, parts.port)
            writer.write(head)
            await writer.drain()
            held.append((reader, writer))
        async with platform.client("ingest") as client:
            body = {"organization_id": "honest", "device_id": "d", "sensor_name": "s", "value": 1.0}
            assert (await client.post("/ingest", json=body)).status_code == 202
            # A large one as well.
            assert (await client.post("/ingest", json=[body] * 3_000)).status_code == 202
        async with platform.client() as client:
            assert (await client.put("/organizations/honest", json={"name": "H"})).status_code == 200
            large = json.dumps({"name": "H"}) + " " * 500_000
            headers = {"Content-Type": "application/json"}
            assert (await client.put("/organizations/honest", content=large, headers=headers)).status_code == 200
    finally:
        for _, writer in held:
            writer.close()

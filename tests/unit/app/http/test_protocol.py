"""Slow and silent connections, and too many of them, on a server of our own with short deadlines."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest

from iotplatform.app.http import protocol
from iotplatform.app.http import server as server_module
from iotplatform.app.http.server import HttpServer, bind, port_of
from iotplatform.roles.management.connected import while_connected

CUT = b"cut"
HEAD = b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\n"


# What became of the answer at `/endless`.
ended: asyncio.Queue[bool] = asyncio.Queue()


async def endless(receive: Any, send: Any) -> None:
    await receive()
    await send({"type": "http.response.start", "status": 200, "headers": []})

    async def write() -> None:
        while True:
            await send({"type": "http.response.body", "body": bytes(65_536), "more_body": True})
            await asyncio.sleep(0.01)

    await while_connected(receive, write())
    ended.put_nowait(True)


async def echo(scope: Any, receive: Any, send: Any) -> None:
    """Answers by what it got; `/early` before it has it, `/endless` without an end."""
    if scope["path"] == "/endless":
        await endless(receive, send)
        return
    if scope["path"] != "/early":
        body = b""
        more = True
        while more:
            message = await receive()
            if message["type"] != "http.request":
                return
            body, more = body + message["body"], message["more_body"]
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
    await send({"type": "http.response.body", "body": b"ok", "more_body": False})


@pytest.fixture
async def port(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[int]:
    monkeypatch.setattr(protocol, "HEAD_WITHIN_S", 0.3)
    monkeypatch.setattr(protocol, "BODY_WITHIN_S", 0.6)
    monkeypatch.setattr(protocol, "TAKEN_WITHIN_S", 0.6)
    monkeypatch.setattr(protocol, "LOOK_EVERY_S", 0.05)
    monkeypatch.setattr(server_module, "MOST_CONNECTIONS", 20)
    listener = bind("test", "127.0.0.1", 0)
    server = HttpServer({listener: echo})
    running = asyncio.get_running_loop().create_task(server.run())
    await server.wait_started()
    yield port_of(listener)
    server.stop()
    await running


async def talk(port: int, *pieces: bytes, pause: float = 0.0) -> bytes:
    """Everything that comes back until the server closes."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    async with asyncio.timeout(10):
        answer = asyncio.get_running_loop().create_task(reader.read())
        try:
            for piece in pieces:
                writer.write(piece)
                await writer.drain()
                await asyncio.sleep(pause)
        except ConnectionError:
            pass
        try:
            got = await answer
        except ConnectionError:
            # Cut while we were sending: what we sent then took the answer along.
            got = CUT
    writer.close()
    return got


def status(answer: bytes) -> int:
    return int(answer.split(b" ", 2)[1])


@pytest.mark.parametrize(
    ("pieces", "what"),
    [
        pytest.param([], "head", id="nothing at all"),
        pytest.param([b"\r\n"] * 3, "head", id="empty lines"),
        pytest.param([bytes([byte]) for byte in HEAD[:30]], "head", id="a head in drops"),
        pytest.param([b"GET / HTTP/1.1\r\n", *[b"X-%d: y\r\n" % number for number in range(30)]], "head", id="no end"),
        pytest.param([HEAD, b"a"], "body", id="a body that stops"),
        pytest.param([HEAD, *[b"a"] * 9], "body", id="a body in drops"),
    ],
)
async def test_who_is_too_slow_is_cut(port: int, pieces: list[bytes], what: str) -> None:
    answer = await talk(port, *pieces, pause=0.1)
    if answer == CUT and len(pieces) > 3:
        return
    assert status(answer) == 408
    problem = json.loads(answer.partition(b"\r\n\r\n")[2])
    assert what in problem["detail"]
    assert problem["type"] == "urn:iotplatform:problem:request_timeout"


async def test_a_request_after_an_answer_has_a_deadline_of_its_own(port: int) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    for _ in range(4):
        writer.write(HEAD + b"0123456789")
        assert b"200" in await reader.readuntil(b"ok")
        await asyncio.sleep(0.2)
    writer.write(b"GET /")
    async with asyncio.timeout(5):
        assert status(await reader.read()) == 408
    writer.close()


async def test_what_came_after_an_answer_and_became_nothing(port: int) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(HEAD + b"0123456789")
    await reader.readuntil(b"ok")
    # It ends Uvicorn's own watch over idle connections.
    writer.write(b"\r\n")
    async with asyncio.timeout(5):
        assert status(await reader.read()) == 408
    writer.close()


async def test_an_answer_that_was_given_is_not_followed_by_another(port: int) -> None:
    answer = await talk(port, b"POST /early HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\na")
    assert answer.count(b"HTTP/1.1") == 1
    assert status(answer) == 200


async def test_a_process_that_stood_still_cuts_nobody(port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(HEAD)
    await writer.drain()
    await asyncio.sleep(0.1)
    protocol.Protocol.clock._read_at -= 1_000
    await asyncio.sleep(0.1)
    writer.write(b"0123456789")
    async with asyncio.timeout(5):
        assert b"200" in await reader.readuntil(b"ok")
    writer.close()


async def test_a_flood_of_connections_is_bounded_and_passes(port: int) -> None:
    flood = [await asyncio.open_connection("127.0.0.1", port) for _ in range(20)]
    answer = await talk(port)
    assert status(answer) == 503
    assert b"retry-after: 1" in answer
    for _, writer in flood:
        writer.close()
        await writer.wait_closed()
    await asyncio.sleep(0.1)
    assert status(await talk(port, HEAD.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n") + b"0123456789")) == 200


async def test_an_answer_that_nobody_takes_ends(port: int) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=1)
    writer.write(b"GET /endless HTTP/1.1\r\nHost: x\r\n\r\n")
    await reader.readexactly(10)
    async with asyncio.timeout(10):
        assert await ended.get()
    writer.transport.abort()


async def test_an_answer_that_is_taken_goes_on_and_ends_with_its_client(port: int) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(b"GET /endless HTTP/1.1\r\nHost: x\r\n\r\n")
    began = asyncio.get_running_loop().time()
    async with asyncio.timeout(10):
        while asyncio.get_running_loop().time() - began < 2 * protocol.TAKEN_WITHIN_S:
            assert await reader.read(1 << 20)
        assert ended.empty()
        writer.transport.abort()
        assert await ended.get()

"""TLS on the way to the protocol of plain HTTP: the same bounds, and others for handshakes."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import ssl
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import uvloop

from iotplatform.app.http import protocol, tls_listener
from iotplatform.app.http import server as server_module
from iotplatform.app.http.certificate import Certificate, CertificateFiles
from iotplatform.app.http.server import HttpServer, bind, port_of
from tests.support.certificates import Pair
from tests.support.platform import eventually
from tests.unit.app.http.test_protocol import HEAD, echo, status

MOST = 20
FIRST, SECOND = Pair("first"), Pair("second")


class Served:
    def __init__(self, port: int, certificate: Certificate, server: HttpServer) -> None:
        self.port = port
        self.certificate = certificate
        self.server = server

    async def connect(self, pair: Pair = FIRST, **bounds: Any) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        context = ssl.create_default_context(cadata=pair.cert_pem.decode())
        for name, value in bounds.items():
            setattr(context, name, value)
        return await asyncio.open_connection("127.0.0.1", self.port, ssl=context)


@pytest.fixture
async def served(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Served]:
    monkeypatch.setattr(protocol, "HEAD_WITHIN_S", 0.5)
    monkeypatch.setattr(protocol, "BODY_WITHIN_S", 0.6)
    monkeypatch.setattr(protocol, "LOOK_EVERY_S", 0.05)
    monkeypatch.setattr(tls_listener, "HEAD_WITHIN_S", 0.5)
    monkeypatch.setattr(server_module, "MOST_CONNECTIONS", MOST)
    certificate = Certificate(CertificateFiles(*FIRST.write(tmp_path)))
    await asyncio.to_thread(certificate.load)
    listener = bind("test", "127.0.0.1", 0)
    server = HttpServer({listener: echo}, certificate=certificate)
    running = asyncio.get_running_loop().create_task(server.run())
    await server.wait_started()
    yield Served(port_of(listener), certificate, server)
    server.stop()
    async with asyncio.timeout(10):
        await running


async def ask(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> int:
    writer.write(HEAD + b"0123456789")
    return status(await reader.readuntil(b"ok"))


async def close(writer: asyncio.StreamWriter) -> None:
    writer.close()
    await writer.wait_closed()


def test_it_is_tried_on_the_loop_that_serves() -> None:
    """uvloop has an implementation of TLS of its own."""

    async def once(folder: str) -> None:
        listener = bind("test", "127.0.0.1", 0)
        certificate = Certificate(CertificateFiles(Path(folder) / "cert.pem", Path(folder) / "key.pem"))
        await asyncio.to_thread(certificate.load)
        server = HttpServer({listener: echo}, certificate=certificate)
        running = asyncio.get_running_loop().create_task(server.run())
        await server.wait_started()
        served = Served(port_of(listener), certificate, server)
        reader, writer = await served.connect()
        assert [await ask(reader, writer) for _ in range(3)] == [200] * 3
        silent = socket.create_connection(("127.0.0.1", served.port))
        await close(writer)
        server.stop()
        async with asyncio.timeout(10):
            await running
        silent.close()

    with tempfile.TemporaryDirectory() as folder:
        FIRST.write(Path(folder))
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(once(folder))


async def test_requests_are_answered_as_over_plain_connections(served: Served) -> None:
    reader, writer = await served.connect()
    assert [await ask(reader, writer) for _ in range(3)] == [200] * 3
    ssl_object = writer.get_extra_info("ssl_object")
    assert ssl_object.version() == "TLSv1.3"
    await close(writer)


async def test_what_is_older_than_tls_1_2_is_not_spoken(served: Served) -> None:
    reader, writer = await served.connect(maximum_version=ssl.TLSVersion.TLSv1_2)
    assert await ask(reader, writer) == 200
    cipher = writer.get_extra_info("cipher")[0]
    assert cipher.startswith("ECDHE")
    await close(writer)
    # A hello of TLS 1.0, as bytes: Python would warn of the very wish.
    old = socket.create_connection(("127.0.0.1", served.port))
    old.setblocking(False)
    loop = asyncio.get_running_loop()
    hello = b"\x03\x01" + b"r" * 32 + b"\0" + b"\0\x04\xc0\x09\xc0\x13" + b"\x01\0"
    record = b"\x01" + len(hello).to_bytes(3, "big") + hello
    await loop.sock_sendall(old, b"\x16\x03\x01" + len(record).to_bytes(2, "big") + record)
    async with asyncio.timeout(5):
        alert = await loop.sock_recv(old, 100)
    assert alert[:1] in {b"\x15", b""}
    assert b"\x16" not in alert[:1]
    old.close()


async def test_who_says_nothing_or_no_tls_is_cut(served: Served) -> None:
    for words in (b"", b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", b"\x16\x03\x01\x02\x00"):
        reader, writer = await asyncio.open_connection("127.0.0.1", served.port)
        writer.write(words)
        async with asyncio.timeout(5):
            try:
                got = await reader.read()
            except ConnectionError:
                got = b""
        assert b"HTTP" not in got
        writer.close()


async def test_a_slow_head_after_a_handshake_is_cut_too(served: Served) -> None:
    reader, writer = await served.connect()
    writer.write(HEAD[:10])
    async with asyncio.timeout(5):
        answer = await reader.read()
    assert status(answer) == 408
    assert "head" in json.loads(answer.partition(b"\r\n\r\n")[2])["detail"]
    writer.close()


async def test_handshakes_count_among_the_connections(served: Served) -> None:
    silent = [await asyncio.open_connection("127.0.0.1", served.port) for _ in range(MOST)]
    reader, _ = refused = await asyncio.open_connection("127.0.0.1", served.port)
    async with asyncio.timeout(0.4):
        with contextlib.suppress(ConnectionError):
            assert await reader.read() == b""
    for _, writer in [*silent, refused]:
        writer.close()
    async with asyncio.timeout(5):
        while True:
            try:
                reader, writer = await served.connect()
                break
            except OSError:
                await asyncio.sleep(0.05)
    assert await ask(reader, writer) == 200
    await close(writer)


async def test_new_connections_get_the_new_certificate_and_none_is_refused(served: Served) -> None:
    before = await served.connect()
    assert await ask(*before) == 200
    ended = asyncio.Event()
    seen: set[bytes] = set()

    async def keep_connecting() -> None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        while not ended.is_set():
            reader, writer = await asyncio.open_connection("127.0.0.1", served.port, ssl=context)
            seen.add(writer.get_extra_info("ssl_object").getpeercert(binary_form=True))
            assert await ask(reader, writer) == 200
            await close(writer)

    async with asyncio.timeout(20), asyncio.TaskGroup() as group:
        for _ in range(4):
            group.create_task(keep_connecting())
        await eventually(lambda: asyncio.sleep(0, FIRST.der in seen))
        SECOND.write(served.certificate.files.cert.parent)
        await served.certificate._follow(asked=True)
        await eventually(lambda: asyncio.sleep(0, SECOND.der in seen))
        ended.set()
    assert seen == {FIRST.der, SECOND.der}
    # The one that was there before goes on.
    assert await ask(*before) == 200
    await close(before[1])
    _, writer = await served.connect(SECOND)
    await close(writer)


async def test_out_of_files_it_waits_and_goes_on(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    listeners = served.server._server.servers
    listener: Any = listeners[0]
    real = listener._listener
    failures = iter([OSError(24, "Too many open files")])

    class Failing:
        def accept(self) -> Any:
            for error in failures:
                raise error
            return real.accept()

        def fileno(self) -> int:
            return real.fileno()

    monkeypatch.setattr(listener, "_listener", Failing())
    monkeypatch.setattr(tls_listener, "REST_S", 0.05)
    async with asyncio.timeout(5):
        reader, writer = await served.connect()
        assert await ask(reader, writer) == 200
    await close(writer)

"""NATS over TLS: `nats.url = "tls://…"`, an authority of one's own, and certificates on both sides."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import NamedTuple

import pytest

from iotplatform.adapters.embedded.programs import find_nats_server
from iotplatform.adapters.nats.connection import Connection
from iotplatform.adapters.nats.examination import examine_nats
from iotplatform.adapters.nats.tls import NatsTls
from iotplatform.errors import ConfigError
from iotplatform.observability.metrics import Metrics
from iotplatform.runtime.tasks import Tasks
from tests.support.certificates import Pair


@pytest.fixture(scope="module")
async def secured(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[tuple[str, Path]]:
    """The URL of a nats-server that speaks TLS only, and the file of whom to trust."""
    folder = tmp_path_factory.mktemp("tls")
    cert, key = Pair("nats").write(folder)
    (folder / "nats.conf").write_text(
        f'listen: "127.0.0.1:-1"\nports_file_dir: "{folder}"\ntls {{ cert_file: "{cert}", key_file: "{key}" }}\n'
        "authorization { user: platform, password: secret }\n"
    )
    async with serving(folder) as port:
        yield f"tls://platform:secret@127.0.0.1:{port}", cert


@contextlib.asynccontextmanager
async def serving(folder: Path) -> AsyncIterator[str]:
    """The port of a nats-server with the folder's nats.conf."""
    process = await asyncio.create_subprocess_exec(
        str(find_nats_server()),
        *("-c", str(folder / "nats.conf")),
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.DEVNULL,
    )
    try:
        async with asyncio.timeout(20):
            while not (found := list(folder.glob("*.ports"))) or not found[0].read_text().strip():  # noqa: ASYNC110
                await asyncio.sleep(0.05)
        port = found[0].read_text().partition("127.0.0.1:")[2].split('"')[0]
        yield port
    finally:
        process.terminate()
        await process.wait()


@contextlib.asynccontextmanager
async def connecting(url: str, tls: NatsTls | None = None) -> AsyncIterator[Connection]:
    connection = Connection(url, Metrics(), tls=tls)
    tasks = Tasks("test")
    tasks.start(connection.run(), "nats")
    try:
        yield connection
    finally:
        await tasks.stop()


async def test_who_is_trusted_is_connected_to(secured: tuple[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    url, authority = secured
    monkeypatch.setenv("SSL_CERT_FILE", str(authority))
    async with connecting(url) as connection:
        assert await connection.wait_connected(10)


@pytest.mark.parametrize("plain", [lambda url: url, lambda url: url.replace("tls://", "nats://")])
async def test_who_is_not_trusted_gets_no_password(
    plain: Callable[[str], str], secured: tuple[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cert, _ = Pair("another").write(tmp_path)
    monkeypatch.setenv("SSL_CERT_FILE", str(cert))
    async with connecting(plain(secured[0])) as connection:
        assert not await connection.wait_connected(1.0)


class Mutual(NamedTuple):
    """Of a nats-server that asks for certificates: its URL, and the files of an authority and of a client."""

    url: str
    ca: Path
    cert: Path
    key: Path


@pytest.fixture(scope="module")
async def mutual(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Mutual]:
    folder = tmp_path_factory.mktemp("mutual")
    authority = Pair("authority")
    for name in ("ca", "server", "client"):
        (folder / name).mkdir()
    ca, _ = authority.write(folder / "ca")
    cert, key = Pair("nats", authority=authority).write(folder / "server")
    (folder / "nats.conf").write_text(
        f'listen: "127.0.0.1:-1"\nports_file_dir: "{folder}"\n'
        f'tls {{ cert_file: "{cert}", key_file: "{key}", ca_file: "{ca}", verify: true }}\n'
        "authorization { user: platform, password: secret }\njetstream: disabled\n"
    )
    client = Pair("platform", authority=authority).write(folder / "client")
    async with serving(folder) as port:
        yield Mutual(f"tls://platform:secret@127.0.0.1:{port}", ca, *client)


async def test_both_sides_show_certificates(mutual: Mutual) -> None:
    tls = NatsTls(mutual.ca, mutual.cert, mutual.key)
    async with connecting(mutual.url, tls) as connection:
        assert await connection.wait_connected(10)
    assert "reachable" in (await examine_nats(mutual.url, tls))[0].detail


async def test_without_ours_the_server_lets_nobody_in(mutual: Mutual) -> None:
    async with connecting(mutual.url, NatsTls(mutual.ca)) as connection:
        assert not await connection.wait_connected(1.0)


async def test_another_authority_is_not_believed(mutual: Mutual, tmp_path: Path) -> None:
    other, _ = Pair("another").write(tmp_path)
    async with connecting(mutual.url, NatsTls(other, mutual.cert, mutual.key)) as connection:
        assert not await connection.wait_connected(1.0)


async def test_a_certificate_that_comes_later_is_taken(mutual: Mutual, tmp_path: Path) -> None:
    """The files are read at every try, so nothing has to be started again."""
    tls = NatsTls(mutual.ca, tmp_path / "cert.pem", tmp_path / "key.pem")
    async with connecting(mutual.url, tls) as connection:
        assert not await connection.wait_connected(0.3)
        shutil.copy(mutual.cert, tmp_path / "cert.pem")
        shutil.copy(mutual.key, tmp_path / "key.pem")
        assert await connection.wait_connected(10)


async def test_a_server_that_says_it_has_no_tls_gets_no_password() -> None:
    """As somebody in between would say."""
    heard = bytearray()
    asked = asyncio.Event()

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b'INFO {"server_id":"x","version":"2.15.1","max_payload":1048576,"tls_required":false}\r\n')
        heard.extend(await reader.read(4_096))
        asked.set()
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    async with server:
        port = server.sockets[0].getsockname()[1]
        async with connecting(f"tls://platform:secret@127.0.0.1:{port}") as connection:
            async with asyncio.timeout(10):
                await asked.wait()
            assert not connection.is_connected
    assert b"secret" not in heard


def test_files_that_can_not_be_used_are_named(mutual: Mutual, tmp_path: Path) -> None:
    (tmp_path / "empty.pem").write_text("")
    (tmp_path / "locked.pem").write_bytes(Pair("x").encrypted_key_pem())
    for tls, said in (
        (NatsTls(tmp_path / "none.pem"), "nats.ca: .*none.pem: No such file"),
        (NatsTls(tmp_path / "empty.pem"), "nats.ca"),
        (NatsTls(mutual.ca, mutual.cert, tmp_path / "none.pem"), "nats.cert, nats.key: .*No such file"),
        (NatsTls(mutual.ca, mutual.cert, tmp_path / "locked.pem"), "the key is encrypted"),
        (NatsTls(mutual.ca, mutual.key, mutual.key), "nats.cert, nats.key"),
    ):
        with pytest.raises(ConfigError, match=said):
            tls.context()

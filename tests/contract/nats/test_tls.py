"""NATS over TLS: `nats.url = "tls://…"`, and an authority of one's own by SSL_CERT_FILE."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from iotplatform.adapters.embedded.programs import find_nats_server
from iotplatform.adapters.nats.connection import Connection
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
        yield f"tls://platform:secret@127.0.0.1:{port}", cert
    finally:
        process.terminate()
        await process.wait()


@contextlib.asynccontextmanager
async def connecting(url: str) -> AsyncIterator[Connection]:
    connection = Connection(url, Metrics())
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

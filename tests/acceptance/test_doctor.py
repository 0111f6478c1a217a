"""`iotplatform doctor` names what is wrong, for causes that are made here."""

from __future__ import annotations

import asyncio
import datetime as dt
import signal
import socket
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import asyncpg
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from iotplatform.adapters.embedded.programs import find_nats_server, find_redis_server
from iotplatform.adapters.postgres.migrations import migrate
from tests.support.platform import Platform, environment, eventually

NATS, REDIS = str(find_nats_server()), str(find_redis_server())


async def doctor(data_dir: Path, **settings: str) -> tuple[int, str]:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "iotplatform", "doctor", "--data-dir", str(data_dir)),
        env=environment(**settings),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    output, _ = await process.communicate()
    return process.returncode or 0, output.decode()


def says(output: str, state: str, what: str, *parts: str) -> bool:
    """Whether one line has the state, the thing, every part and an advice."""
    return any(
        line.split()[:2] == [state, what] and "→" in line and all(part in line for part in parts)
        for line in output.splitlines()
    )


@asynccontextmanager
async def server(*command: str, port: int) -> AsyncIterator[None]:
    process = await asyncio.create_subprocess_exec(
        *command, stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.DEVNULL
    )

    async def listens() -> bool:
        try:
            _, writer = await asyncio.open_connection("127.0.0.1", port)
        except OSError:
            return False
        writer.close()
        return True

    try:
        await eventually(listens)
        yield
    finally:
        process.kill()
        await process.wait()


def free_port() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port: int = taken.getsockname()[1]
        return port


def certificate(folder: Path, days: int) -> dict[str, str]:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
    now = dt.datetime.now(dt.UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - dt.timedelta(days=30))
        .not_valid_after(now + dt.timedelta(days=days))
        .sign(key, hashes.SHA256())
    )
    cert, pem = folder / f"cert{days}.pem", folder / f"key{days}.pem"
    cert.write_bytes(made.public_bytes(serialization.Encoding.PEM))
    form = serialization.PrivateFormat.PKCS8
    pem.write_bytes(key.private_bytes(serialization.Encoding.PEM, form, serialization.NoEncryption()))
    return {"tls__cert": str(cert), "tls__key": str(pem)}


async def test_nothing_is_wrong_before_the_first_start(tmp_path: Path) -> None:
    code, output = await doctor(tmp_path / "data")
    assert (code, [line for line in output.splitlines() if not line.startswith("ok")]) == (0, []), output


async def test_wrong_settings(tmp_path: Path) -> None:
    code, output = await doctor(tmp_path / "data", streams__keep_s="soon")
    assert code == 78
    assert says(output, "problem", "settings", "streams.keep_s")


async def test_servers_that_are_away(tmp_path: Path) -> None:
    port = free_port()
    code, output = await doctor(
        tmp_path / "data",
        nats__url=f"nats://127.0.0.1:{port}",
        postgres__url=f"postgresql://iot@127.0.0.1:{port}/iot",
        redis__url=f"redis://127.0.0.1:{port}",
        mail__url=f"smtp://127.0.0.1:{port}",
        mail__from="a@example.org",
    )
    assert code == 1
    for what in ("NATS", "PostgreSQL", "Redis", "mail"):
        assert says(output, "problem", what, "not reachable"), output


async def test_a_nats_server_without_jetstream_and_one_that_refuses(tmp_path: Path) -> None:
    port = free_port()
    config = tmp_path / "nats.conf"
    config.write_text(f'listen: "127.0.0.1:{port}"\nauthorization {{ user: a, password: b }}\n')
    async with server(NATS, "-c", str(config), port=port):
        code, output = await doctor(tmp_path / "data", nats__url=f"nats://a:b@127.0.0.1:{port}")
        assert code == 1
        assert says(output, "problem", "JetStream", "not enabled"), output
        code, output = await doctor(tmp_path / "data", nats__url=f"nats://a:wrong@127.0.0.1:{port}")
        assert says(output, "problem", "NATS", "refuses the user and password"), output
        assert "wrong@" not in output


async def test_a_redis_that_forgets(tmp_path: Path) -> None:
    port = free_port()
    command = (
        REDIS,
        "--port",
        str(port),
        "--dir",
        str(tmp_path),
        "--maxmemory-policy",
        "allkeys-lru",
    )
    async with server(*command, port=port):
        _, output = await doctor(tmp_path / "data", redis__url=f"redis://127.0.0.1:{port}")
        assert says(output, "warning", "Redis", "appendonly is no"), output
        assert says(output, "warning", "Redis", "appendfsync is everysec"), output
        assert says(output, "warning", "Redis", "maxmemory-policy is allkeys-lru"), output


async def test_ports_that_are_taken(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        code, output = await doctor(tmp_path / "data", ingest__port=str(taken.getsockname()[1]))
    assert code == 1
    assert says(output, "problem", "ports", "ingest.port"), output


async def test_access_for_everybody_and_passwords_in_clear_text(tmp_path: Path) -> None:
    _, output = await doctor(tmp_path / "data", ingest__host="0.0.0.0", auth__mode="open")
    assert says(output, "warning", "access", "nobody needs a credential"), output
    _, output = await doctor(tmp_path / "data", ingest__host="0.0.0.0")
    assert says(output, "warning", "access", "clear text"), output


async def test_certificates_that_end(tmp_path: Path) -> None:
    code, output = await doctor(tmp_path / "data", **certificate(tmp_path, -1))
    assert code == 1
    assert says(output, "problem", "certificate", "expired"), output
    code, output = await doctor(tmp_path / "data", **certificate(tmp_path, 5))
    assert code == 0
    assert says(output, "warning", "certificate", "expires in"), output


async def test_too_few_files(tmp_path: Path) -> None:
    process = await asyncio.create_subprocess_exec(
        *("sh", "-c", f'ulimit -n 256 && exec "$0" -m iotplatform doctor --data-dir {tmp_path}/data', sys.executable),
        env=environment(),
        stdout=asyncio.subprocess.PIPE,
    )
    output, _ = await process.communicate()
    assert says(output.decode(), "warning", "limits", "256 files")


async def test_a_data_directory_that_can_not_be_made(tmp_path: Path) -> None:
    """Not even by root: what it would lie in is a file."""
    (tmp_path / "file").touch(mode=0o600)
    code, output = await doctor(tmp_path / "file" / "data")
    assert code == 1
    assert says(output, "problem", "disk", "can't be written"), output


async def test_a_platform_that_runs(tmp_path: Path) -> None:
    """Well, on a schema of before, with a server that hangs, and hanging itself."""
    platform = await Platform.start(tmp_path / "data")
    try:
        code, output = await doctor(tmp_path / "data")
        assert (code, [line for line in output.splitlines() if not line.startswith("ok")]) == (0, []), output
        postgres = platform.urls["postgres"]
        code, output = await doctor(tmp_path / "data", postgres__url=postgres.replace("/iotplatform?", "/nowhere?"))
        assert code == 1
        assert says(output, "problem", "PostgreSQL", "nowhere"), output
        code, output = await doctor(tmp_path / "data", postgres__url=postgres.replace("/iotplatform?", "/postgres?"))
        assert says(output, "problem", "schema", "not at this version's schema"), output
        await on_an_older_schema(platform, tmp_path)
        platform.process.send_signal(signal.SIGSTOP)
        code, output = await doctor(tmp_path / "data")
        platform.process.send_signal(signal.SIGCONT)
        assert code == 1
        assert says(output, "problem", "platform", "does not answer"), output
    finally:
        assert await platform.stop() == 0


async def on_an_older_schema(platform: Platform, folder: Path) -> None:
    """A process of this version does not start there, and says what is to be done; nothing is changed."""
    url = platform.urls["postgres"].replace("/iotplatform?", "/older?")
    connection = await asyncpg.connect(platform.urls["postgres"])
    await connection.execute("CREATE DATABASE older")
    await connection.close()
    await migrate(url)
    connection = await asyncpg.connect(url)
    await connection.execute("UPDATE alembic_version SET version_num = '0001'")
    settings = {"postgres__url": url, "nats__url": platform.urls["nats"], "redis__url": platform.urls["redis"]}
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "iotplatform", "serve", "--data-dir", str(folder / "newer")),
        env=environment(**settings),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    output, _ = await process.communicate()
    assert (process.returncode, b"run `iotplatform migrate` first" in output) == (78, True), output.decode()
    assert await connection.fetchval("SELECT version_num FROM alembic_version") == "0001"
    await connection.close()

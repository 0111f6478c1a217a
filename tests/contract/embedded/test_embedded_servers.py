"""The real servers, as real child processes. The drivers are the ones the platform uses: the URLs must suit them."""

import asyncio
import contextlib
import os
import signal
import socket
import sys
import tempfile
from pathlib import Path

import asyncpg
import nats
import psutil
import pytest
import redis.asyncio
from nats.js.api import StreamConfig

from iotplatform.adapters.embedded import DataDirectory, EmbeddedServers, EmbeddedSettings, Timing, privilege
from iotplatform.errors import ConfigError

FREE_PORTS = EmbeddedSettings(nats_port=0, nats_monitor_port=0)
QUICK = Timing(probe_every_s=0.1, probe_timeout_s=0.2, hang_after_s=0.5)

# Starts the servers, says so, and waits to be killed.
PARENT = """
import asyncio, sys
from iotplatform.adapters.embedded import DataDirectory, EmbeddedServers, EmbeddedSettings

async def main():
    servers = EmbeddedServers(
        DataDirectory.open(sys.argv[1]), EmbeddedSettings(nats_port=int(sys.argv[2]), nats_monitor_port=0)
    )
    await servers.start()
    print("up", flush=True)
    await servers.run()

if "uvloop" in sys.argv:
    import uvloop
    uvloop.run(main())
else:
    asyncio.run(main())
"""


@contextlib.asynccontextmanager
async def started(path, settings=FREE_PORTS, **options):
    """The servers under supervision, and their URLs."""
    with DataDirectory.open(path) as directory:
        servers = EmbeddedServers(directory, settings, **options)
        try:
            urls = await servers.start()
            async with asyncio.TaskGroup() as group:
                run = group.create_task(servers.run())
                yield servers, urls
                run.cancel()
        finally:
            await servers.stop()


async def until(condition):
    async with asyncio.timeout(20):
        while not condition():  # noqa: ASYNC110 - another process changes it
            await asyncio.sleep(0.01)


def running(path):
    """Every process that runs below the directory, sessions of PostgreSQL included."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if alive(process) and Path(process.cwd()).is_relative_to(path):
                found.append(process)
    return found


def alive(process):
    # A Process knows its start time too: a new one under an old number is not the same.
    return process.is_running() and process.status() != psutil.STATUS_ZOMBIE


def pids(servers):
    return {status.server: status.pid for status in servers.status()}


async def store(urls):
    """One thing in each of them."""
    client = redis.asyncio.from_url(urls.redis)
    await client.set("kept", "1")
    await client.aclose()
    connection = await asyncpg.connect(urls.postgres)
    await connection.execute("CREATE TABLE kept AS SELECT 1 AS one")
    await connection.close()
    connection = await nats.connect(urls.nats)
    stream = connection.jetstream()
    await stream.add_stream(StreamConfig(name="KEPT", subjects=["kept"], max_bytes=1 << 30))
    await stream.publish("kept", b"1")
    await connection.close()


async def assert_stored(urls):
    client = redis.asyncio.from_url(urls.redis)
    assert await client.get("kept") == b"1"
    await client.aclose()
    connection = await asyncpg.connect(urls.postgres)
    assert await connection.fetchval("SELECT one FROM kept") == 1
    await connection.close()
    connection = await nats.connect(urls.nats)
    assert (await connection.jetstream().stream_info("KEPT")).state.messages == 1
    await connection.close()


async def test_start_use_stop_and_start_again(tmp_path):
    # Spaces and quotes must get through three configuration grammars.
    path = tmp_path / 'my "data", here'
    async with started(path) as (servers, urls):
        assert [status.server for status in servers.status()] == ["postgres", "redis", "nats"]
        assert all(status.healthy and status.restarts == 0 for status in servers.status())
        await store(urls)
        assert len(running(path)) > 3
    assert running(path) == []
    async with started(path) as (_, urls):
        await assert_stored(urls)
    assert running(path) == []


async def test_the_servers_are_set_up_for_keeping_what_they_accept(tmp_path):
    async with started(tmp_path) as (_, urls):
        connection = await asyncpg.connect(urls.postgres)
        shown = {
            name: await connection.fetchval(f"SHOW {name}")
            for name in ("fsync", "synchronous_commit", "listen_addresses", "server_encoding", "data_checksums")
        }
        assert await connection.fetchval("SELECT 'Z' < 'a' AND lower('É') = 'é'")
        await connection.close()
        assert shown["fsync"] == shown["synchronous_commit"] == "on"
        assert shown["server_encoding"] == "UTF8"
        assert shown["listen_addresses"] == ""

        client = redis.asyncio.from_url(urls.redis)
        settings = await client.config_get("*")
        await client.aclose()
        assert settings["port"] == "0"
        assert (settings["appendonly"], settings["appendfsync"], settings["save"]) == ("yes", "always", "")
        assert settings["maxmemory-policy"] == "noeviction"

        reader, writer = await asyncio.open_connection(*urls.nats_monitor.removeprefix("http://").split(":"))
        writer.write(b"GET /varz HTTP/1.0\r\n\r\n")
        varz = (await reader.read()).decode()
        writer.close()
        assert '"sync_always": true' in varz
        assert '"max_payload": 8388608' in varz
        assert f'"store_dir": "{tmp_path}/nats/jetstream"' in varz


async def test_nats_lets_nobody_in_without_the_password(tmp_path):
    async with started(tmp_path, postgres=False, redis=False) as (_, urls):
        assert urls.postgres is None
        assert urls.redis is None
        host, port = urls.nats.rpartition("@")[2].split(":")
        for credentials in (b"{}", b'{"user":"platform","pass":"platform"}', b'{"user":"sys"}'):
            reader, writer = await asyncio.open_connection(host, port)
            assert (await reader.readline()).startswith(b"INFO ")
            writer.write(b"CONNECT " + credentials + b"\r\nPING\r\n")
            assert (await reader.readline()).startswith(b"-ERR 'Authorization Violation'")
            writer.close()


async def test_killed_servers_come_back_where_they_were_with_their_data(tmp_path):
    async with started(tmp_path) as (servers, urls):
        await store(urls)
        before = pids(servers)
        for pid in before.values():
            os.kill(pid, signal.SIGKILL)
        await until(lambda: all(status.restarts == 1 and status.healthy for status in servers.status()))
        assert not set(before.values()) & set(pids(servers).values())
        await assert_stored(urls)
    assert running(tmp_path) == []


async def test_a_frozen_server_is_replaced(tmp_path):
    async with started(tmp_path, nats=False, postgres=False, timing=QUICK) as (servers, urls):
        os.kill(pids(servers)["redis"], signal.SIGSTOP)
        await until(lambda: servers.status()[0].restarts == 1)
        client = redis.asyncio.from_url(urls.redis)
        assert await client.ping()
        await client.aclose()


@contextlib.asynccontextmanager
async def parent(path, *arguments):
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", PARENT, path, *arguments, stdout=asyncio.subprocess.PIPE
    )
    try:
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        # The servers it leaves behind have its output no longer; this only closes our end.
        await process.communicate()


@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
async def test_what_a_killed_parent_left_is_stopped_by_the_next_start(tmp_path, loop):
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    async with parent(tmp_path, str(port), loop) as process:
        while await process.stdout.readline() != b"up\n":
            assert not process.stdout.at_eof()
        with pytest.raises(ConfigError, match=f"process {process.pid}.*--data-dir"):
            DataDirectory.open(tmp_path)
        process.kill()
        await process.wait()
    left = running(tmp_path)
    assert {"nats-server", "postgres"} <= {leftover.name() for leftover in left}
    async with started(tmp_path, EmbeddedSettings(nats_port=port, nats_monitor_port=0)) as (servers, _):
        assert all(status.healthy and status.restarts == 0 for status in servers.status())
        assert [leftover for leftover in left if alive(leftover)] == []
    assert running(tmp_path) == []


async def test_a_first_start_killed_in_the_middle_is_done_again(tmp_path):
    postgres = tmp_path / "postgres"
    async with parent(tmp_path, "0") as process:
        await until(lambda: any(postgres.glob("initdb-*/PG_VERSION")))
        process.kill()
        await process.wait()
    assert not (postgres / "cluster").exists()
    async with started(tmp_path, nats=False, redis=False) as (_, urls):
        connection = await asyncpg.connect(urls.postgres)
        assert await connection.fetchval("SELECT current_database()") == "iotplatform"
        await connection.close()
    assert [entry.name for entry in postgres.iterdir()] == ["cluster"]
    assert running(tmp_path) == []


async def test_a_cancelled_first_start_leaves_nothing(tmp_path):
    with DataDirectory.open(tmp_path) as directory:
        servers = EmbeddedServers(directory, FREE_PORTS)
        async with asyncio.TaskGroup() as group:
            start = group.create_task(servers.start())
            await until(lambda: any(directory.postgres.glob("initdb-*/PG_VERSION")))
            start.cancel()
    assert running(tmp_path) == []
    assert list(directory.postgres.iterdir()) == []


async def test_a_port_in_use_is_refused_and_the_others_are_stopped(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        for setting in ("nats_port", "nats_monitor_port"):
            settings = EmbeddedSettings(**{"nats_port": 0, "nats_monitor_port": 0, setting: port})
            with pytest.raises(ConfigError, match=rf"embedded\.{setting} = {port}"):
                async with started(tmp_path, settings, postgres=False):
                    pass
            assert running(tmp_path) == []


async def test_a_lock_file_whose_pid_belongs_to_somebody_else_does_not_stop_postgres(tmp_path):
    async with started(tmp_path, nats=False, redis=False):
        lock = (tmp_path / "postgres" / "cluster" / "postmaster.pid").read_text()
        pid = lock.splitlines()[0]
    (tmp_path / "postgres" / "cluster" / "postmaster.pid").write_text(lock.replace(pid, str(os.getppid()), 1))
    async with started(tmp_path, nats=False, redis=False) as (servers, _):
        assert servers.status()[0].healthy


@pytest.mark.skipif(os.geteuid() != 0, reason="about root")
async def test_root_in_a_directory_that_only_root_can_enter(tmp_path):
    tmp_path.chmod(0o700)
    async with started(tmp_path / "data", nats=False, redis=False) as (servers, _):
        assert servers.status()[0].healthy
        # Nothing changed hands.
        assert (tmp_path / "data" / "postgres" / "cluster").stat().st_uid == 0


@pytest.mark.skipif(os.geteuid() != 0, reason="about root")
async def test_root_without_namespaces_runs_postgres_as_another_user(monkeypatch):
    launch = privilege._launch
    monkeypatch.setattr(
        privilege,
        "_launch",
        lambda way, user: (*launch(way, user)[:-2], "-5", "-5") if way == "namespace" else launch(way, user),
    )
    with tempfile.TemporaryDirectory(dir="/tmp", prefix="iot-") as path:
        Path(path).chmod(0o755)
        data = Path(path, "data")
        try:
            async with started(data, nats=False, redis=False) as (servers, urls):
                assert psutil.Process(pids(servers)["postgres"]).uids().real != 0
                connection = await asyncpg.connect(urls.postgres)
                await connection.close()
        except ConfigError as error:
            pytest.skip(f"the programs are out of others' reach here: {error}")
        assert running(data) == []

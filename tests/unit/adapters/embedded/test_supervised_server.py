import asyncio
import contextlib
import os
import signal
import sys
from pathlib import Path

import msgspec
import psutil
import pytest

from iotplatform.adapters.embedded.processes import Mark
from iotplatform.adapters.embedded.server import Command, Health, StopStep, Timing
from iotplatform.adapters.embedded.supervised_server import SupervisedServer
from iotplatform.errors import ConfigError, Unavailable

QUICK = Timing(probe_every_s=0.02, hang_after_s=0.15, first_backoff_s=0.01, most_backoff_s=0.05)
# On a busy machine a start takes longer than it is quick to take a server for dead.
PATIENT = msgspec.structs.replace(QUICK, hang_after_s=10.0)

SCRIPT = f"""#!{sys.executable} -IS
import os, signal, sys, time
if "stubborn" in sys.argv:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
if "broken" in sys.argv:
    sys.exit("no room for my data")
open("up", "w").close()
time.sleep(100)
"""


class FakeServer:
    name = "fake"
    recovers_by_itself = False

    def __init__(self, home: Path, *arguments: str) -> None:
        self.program = home / "fake-server"
        self.program.write_text(SCRIPT)
        self.program.chmod(0o755)
        self.home = home
        self.arguments = arguments
        self.log = home / "fake.log"
        self.mark = Mark(("fake-server",), (home,), home)
        self.stop_steps = (StopStep(signal.SIGTERM, 0.2),)
        self.health: Health | None = None
        self.starts = 0
        self.started = asyncio.Event()
        self.closed = False

    async def prepare(self) -> Command:
        (self.home / "up").unlink(missing_ok=True)
        self.starts += 1
        self.started.set()
        return Command((str(self.program), *self.arguments), self.home, dict(os.environ))

    async def probe(self) -> Health:
        if self.health is not None:
            return self.health
        if not (self.home / "up").exists():
            raise ConnectionRefusedError
        return Health.READY

    def close(self) -> None:
        self.closed = True

    async def next_start(self) -> None:
        self.started.clear()
        await self.started.wait()


@contextlib.asynccontextmanager
async def supervised(server, timing=QUICK):
    child = SupervisedServer(server, timing)
    await child.start()
    try:
        async with asyncio.TaskGroup() as group:
            task = group.create_task(child.supervise())
            yield child
            task.cancel()
    finally:
        await child.stop()


async def until(condition):
    async with asyncio.timeout(10):
        while not condition():  # noqa: ASYNC110 - another process changes it
            await asyncio.sleep(0.005)


async def test_starts_and_stops(tmp_path):
    server = FakeServer(tmp_path)
    child = SupervisedServer(server, QUICK)
    assert child.status.pid is None
    await child.start()
    pid = child.status.pid
    assert child.status.healthy
    # Ctrl-C in a terminal goes to the foreground process group.
    assert os.getsid(pid) == os.getpgid(pid) == pid
    await child.stop()
    assert not psutil.pid_exists(pid)
    assert child.status.pid is None
    assert not child.status.healthy
    assert server.closed
    await child.stop()


async def test_one_that_does_not_stop_is_killed(tmp_path):
    child = SupervisedServer(FakeServer(tmp_path, "stubborn"), PATIENT)
    await child.start()
    pid = child.status.pid
    await child.stop()
    assert not psutil.pid_exists(pid)


async def test_one_that_ends_at_once_is_reported_with_its_last_words(tmp_path):
    child = SupervisedServer(FakeServer(tmp_path, "broken"), PATIENT)
    with pytest.raises(Unavailable, match=r"embedded fake ended with exit code 1.*no room for my data.*fake\.log"):
        await child.start()
    await child.stop()


async def test_one_that_never_answers_is_reported_and_killed(tmp_path):
    server = FakeServer(tmp_path)
    server.health = Health.SILENT
    child = SupervisedServer(server, QUICK)
    with pytest.raises(Unavailable, match="did not answer"):
        await child.start()
    assert child.status.pid is None


async def test_one_that_is_busy_when_it_starts_is_waited_for(tmp_path):
    server = FakeServer(tmp_path)
    server.health = Health.BUSY
    child = SupervisedServer(server, QUICK)
    async with asyncio.TaskGroup() as group:
        start = group.create_task(child.start())
        await asyncio.sleep(2 * QUICK.hang_after_s)
        assert not start.done()
        server.health = Health.READY
    assert child.status.healthy
    await child.stop()


async def test_a_dead_one_is_started_again(tmp_path):
    async with supervised(FakeServer(tmp_path)) as child:
        for times in (1, 2):
            first = child.status.pid
            os.kill(first, signal.SIGKILL)
            await until(lambda times=times: child.status.restarts == times)
            assert child.status.healthy
            assert child.status.pid != first


async def test_a_hanging_one_is_killed_and_started_again(tmp_path):
    server = FakeServer(tmp_path, "stubborn")
    async with supervised(server) as child:
        first = child.status.pid
        server.health = Health.SILENT
        await until(lambda: not child.status.healthy)
        await server.next_start()
        server.health = None
        await until(lambda: child.status.restarts == 1)
        assert not psutil.pid_exists(first)


@pytest.mark.parametrize("recovers", [True, False])
async def test_a_busy_one_is_left_alone_only_when_it_recovers_by_itself(tmp_path, recovers):
    server = FakeServer(tmp_path)
    server.recovers_by_itself = recovers
    async with supervised(server):
        server.health = Health.BUSY
        next_start = asyncio.wait_for(server.next_start(), 3 * QUICK.hang_after_s)
        if recovers:
            with pytest.raises(TimeoutError):
                await next_start
        else:
            await next_start
        server.health = None


async def test_one_that_a_restart_would_not_help_is_left_alone(tmp_path):
    server = FakeServer(tmp_path)
    async with supervised(server) as child:
        server.health = Health.WAITING
        await until(lambda: not child.status.healthy)
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(server.next_start(), 3 * QUICK.hang_after_s)
        server.health = None
        await until(lambda: child.status.healthy)


async def test_one_that_somebody_has_told_to_stop_and_does_not_is_started_again(tmp_path):
    server = FakeServer(tmp_path)
    server.recovers_by_itself = True
    async with supervised(server) as child:
        server.health = Health.STOPPING
        await server.next_start()
        server.health = None
        await until(lambda: child.status.restarts == 1)


async def test_a_restart_that_fails_is_tried_again(tmp_path):
    server = FakeServer(tmp_path)
    async with supervised(server) as child:
        server.arguments = ("broken",)
        os.kill(child.status.pid, signal.SIGKILL)
        await until(lambda: server.starts >= 3)
        assert child.status.restarts == 0
        assert not child.status.healthy
        server.arguments = ()
        await until(lambda: child.status.restarts == 1)


async def test_a_wrong_setting_comes_out_of_start(tmp_path):
    server = FakeServer(tmp_path)

    async def prepare():
        raise ConfigError("embedded.nats_port = 1: taken")

    server.prepare = prepare
    with pytest.raises(ConfigError, match="nats_port"):
        await SupervisedServer(server, QUICK).start()


async def test_stop_ends_the_supervision_too(tmp_path):
    child = SupervisedServer(FakeServer(tmp_path), PATIENT)
    await child.start()
    async with asyncio.timeout(10), asyncio.TaskGroup() as group:
        group.create_task(child.supervise())
        await asyncio.sleep(0)
        await child.stop()
    assert child.status.restarts == 0


async def test_a_start_that_is_cancelled_leaves_nothing_after_stop(tmp_path):
    server = FakeServer(tmp_path)
    server.health = Health.BUSY
    child = SupervisedServer(server, QUICK)
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(child.start(), 0.1)
    pid = child.status.pid
    await child.stop()
    assert pid is not None
    assert not psutil.pid_exists(pid)

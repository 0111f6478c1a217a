import contextlib
import signal
import subprocess
import sys
import time

import pytest

from iotplatform.adapters.embedded import processes
from iotplatform.adapters.embedded.processes import Mark, find, stop_all

# A script's name is its process's name, as for a real server.
SCRIPT = f"""#!{sys.executable} -IS
import signal, sys, time
if "stubborn" in sys.argv:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
print("up", flush=True)
time.sleep(100)
"""


@pytest.fixture
def run(tmp_path):
    with contextlib.ExitStack() as stack:

        def run(name, directory, *arguments):
            program = tmp_path / name
            if not program.exists():
                program.write_text(SCRIPT)
                program.chmod(0o755)
            process = stack.enter_context(
                subprocess.Popen([program, *arguments], cwd=directory, stdout=subprocess.PIPE, text=True)
            )
            stack.callback(process.kill)
            assert process.stdout.readline() == "up\n"
            return process

        yield run


@pytest.fixture
def home(tmp_path):
    home = tmp_path / "home"
    home.mkdir()
    return home


@pytest.fixture
def mark(home):
    return Mark(("fake-server",), (home,), home / "fake.conf")


def pids(mark):
    return {process.pid for process in find(mark)}


async def test_finds_and_stops_a_server_in_its_directory(run, home, mark):
    process = run("fake-server", home)
    assert pids(mark) == {process.pid}
    assert await stop_all(mark, [(signal.SIGTERM, 5.0)]) == 1
    assert process.wait(5) == -signal.SIGTERM
    assert await stop_all(mark, [(signal.SIGTERM, 5.0)]) == 0


async def test_leaves_everybody_else_alone(run, home, mark, tmp_path):
    # The same program elsewhere, though its command line names our file; and another program in our directory.
    strangers = [run("fake-server", tmp_path, str(mark.argument)), run("editor", home, str(mark.argument))]
    assert pids(mark) == set()
    assert await stop_all(mark, [(signal.SIGTERM, 5.0)]) == 0
    assert [stranger.poll() for stranger in strangers] == [None, None]


async def test_kills_what_does_not_stop(run, home, mark):
    process = run("fake-server", home, "stubborn")
    began = time.monotonic()
    await stop_all(mark, [(signal.SIGTERM, 0.05)])
    assert process.wait(5) == -signal.SIGKILL
    assert time.monotonic() - began < 5


def test_finds_a_server_whose_directory_was_removed(run, home, mark):
    process = run("fake-server", home)
    home.rmdir()
    assert pids(mark) == {process.pid}
    home.mkdir()
    assert pids(mark) == {process.pid}


def test_the_dead_do_not_count(run, home, mark):
    process = run("fake-server", home)
    process.kill()
    process.stdout.read()  # closed with the process, which stays a zombie until it is waited for
    assert pids(mark) == set()


def test_without_proc_the_command_line_decides(run, home, mark, tmp_path, monkeypatch):
    monkeypatch.setattr(processes, "_PROC", tmp_path / "no-proc")
    ours = run("fake-server", home, str(mark.argument))
    run("fake-server", home, f"{mark.argument}.other")
    run("editor", home, str(mark.argument))
    assert pids(mark) == {ours.pid}

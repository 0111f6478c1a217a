"""Finding and stopping server processes that are not, or no longer, our children.

The whole process table is looked through: a pid file would miss a server whose parent died before writing it, and a
pid in a file may belong to somebody else by now. A process counts as ours only when its name and its working directory
say so, and it is looked at again before every signal.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import signal
import subprocess
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

import msgspec

from iotplatform.adapters.embedded.unprivileged import LAUNCHER

_PROC: Final = Path("/proc")
_POLL_S: Final = 0.02


class Mark(msgspec.Struct, frozen=True):
    """How a server's processes are recognised."""

    # The programs' names: one that forks keeps the name in its children.
    programs: tuple[str, ...]
    # Where they run: directories that are this server's own.
    directories: tuple[Path, ...]
    # A path that its command line names: for where working directories can't be read.
    argument: Path


class Process(msgspec.Struct, frozen=True):
    """One process that bears a mark."""

    pid: int
    parent: int


def find(mark: Mark) -> list[Process]:
    """The living processes with that mark."""
    processes = _from_proc(mark) if (_PROC / "self" / "stat").exists() else _from_ps(mark)
    return [process for process in processes if process.pid != os.getpid()]


async def stop_all(mark: Mark, steps: Sequence[tuple[signal.Signals | None, float]]) -> int:
    """Signal every process with that mark, step by step, SIGKILL last. Returns how many there were.

    A step is a signal (None: just wait) and how long it is given to work.
    """
    found = await asyncio.to_thread(find, mark)
    count = len(found)
    for sign, deadline_s in (*steps, (signal.SIGKILL, 10.0)):
        if not found:
            break
        # A server stops its own children; only at the end everybody is hit.
        pids = {process.pid for process in found}
        for process in found:
            if sign == signal.SIGKILL or (sign is not None and process.parent not in pids):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(process.pid, sign)
        deadline = time.monotonic() + deadline_s
        while found and time.monotonic() < deadline:
            await asyncio.sleep(_POLL_S)
            found = await asyncio.to_thread(find, mark)
    return count


def _from_proc(mark: Mark) -> Iterator[Process]:
    homes = []
    for directory in mark.directories:
        with contextlib.suppress(FileNotFoundError):
            homes.append(directory.stat())
    for entry in os.scandir(_PROC):
        if entry.name.isdigit():
            try:
                # "pid (name) state parent …"; the name may hold anything, brackets included.
                head, _, tail = (_PROC / entry.name / "stat").read_text(errors="replace").rpartition(") ")
                state, parent = tail.split()[:2]
                if state not in "ZX" and _is_ours(_PROC / entry.name, head.partition(" (")[2], mark, homes):
                    yield Process(int(entry.name), int(parent))
            except (FileNotFoundError, ProcessLookupError, PermissionError):
                continue


def _is_ours(process: Path, name: str, mark: Mark, homes: Sequence[os.stat_result]) -> bool:
    # The kernel keeps 15 bytes of a name.
    named = name in {program[:15] for program in mark.programs}
    if not named and not name.startswith("python"):
        return False
    arguments = (process / "cmdline").read_bytes().split(b"\0")
    if not named and os.fsencode(LAUNCHER) not in arguments:
        return False
    try:
        there = (process / "cwd").stat()
    except PermissionError:
        # It runs as another user, and this is a root without CAP_SYS_PTRACE, as in most containers.
        return os.fsencode(mark.argument) in arguments
    if any(os.path.samestat(there, home) for home in homes):
        return True
    # Somebody removed the data directory under a running server. The name alone is not enough: in a container the same
    # path is another directory.
    removed = {Path(f"{directory} (deleted)") for directory in mark.directories}
    return (process / "cwd").readlink() in removed and os.path.samestat(
        (process / "ns" / "mnt").stat(), (_PROC / "self" / "ns" / "mnt").stat()
    )


def _from_ps(mark: Mark) -> Iterator[Process]:
    table = subprocess.run(
        ["ps", "-axww", "-o", "pid=,ppid=,command="],  # noqa: S607 - wherever this system keeps it
        capture_output=True,
        text=True,
        errors="surrogateescape",
        check=True,
    ).stdout
    named = re.compile(rf"(^|/)({'|'.join(map(re.escape, mark.programs))})( |$)|{re.escape(LAUNCHER)}")
    argument = re.compile(rf"(^|[ :]){re.escape(str(mark.argument))}( |$)")
    for line in table.splitlines():
        pid, parent, command = line.split(maxsplit=2)
        if named.search(command) and argument.search(command):
            yield Process(int(pid), int(parent))

"""As whom PostgreSQL runs when we are root."""

from __future__ import annotations

import asyncio
import os
import pwd
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import msgspec
import structlog

from iotplatform.adapters.embedded.directory import DataDirectory
from iotplatform.adapters.embedded.unprivileged import LAUNCHER, UNREACHABLE
from iotplatform.errors import ConfigError

log = structlog.get_logger()


class Identity(msgspec.Struct, frozen=True):
    """What goes in front of the command, and who owns the files, seen from here."""

    prefix: tuple[str, ...]
    uid: int
    gid: int


async def choose_identity(directory: DataDirectory, program: Path, owned: Sequence[Path]) -> Identity:
    """Ourselves; as root a namespace in which root has another number, or else another user. `owned` become theirs.

    Raises:
        ConfigError: no way leads there.
    """
    if os.geteuid() != 0:
        return Identity((), os.geteuid(), os.getegid())
    user = await asyncio.to_thread(_ordinary_user)
    inside = Identity(_launch("namespace", user), os.geteuid(), os.getegid())
    # Root in a namespace has lost its right to pass everywhere: it needs to be let in like everybody.
    problem = await asyncio.to_thread(_what_stops, inside, [program, directory.path, directory.run])
    if problem is None:
        await asyncio.to_thread(_hand_over, owned, inside)
        return inside
    log.info("embedded.no_namespace", server="postgres", reason=problem, user=user.pw_name)
    other = Identity(_launch("user", user), user.pw_uid, user.pw_gid)
    await asyncio.to_thread(_let_through, [directory.path, directory.run])
    await asyncio.to_thread(_hand_over, owned, other)
    problem = await asyncio.to_thread(_what_stops, other, [program, *owned])
    if problem is not None:
        raise ConfigError(
            f"PostgreSQL refuses to run as root, and the user {user.pw_name} is no way out ({problem}):"
            " run iotplatform as an ordinary user, or choose a directory that every user can reach with --data-dir"
        )
    return other


def _ordinary_user() -> pwd.struct_passwd:
    # initdb looks its user up by number, so one that is registered is needed.
    users = {user.pw_name: user for user in pwd.getpwall() if user.pw_uid != 0}
    for name in ("postgres", "nobody", *users):
        if name in users:
            return users[name]
    raise ConfigError("PostgreSQL refuses to run as root, and there is no other user: run iotplatform as another user")


def _launch(way: str, user: pwd.struct_passwd) -> tuple[str, ...]:
    return (sys.executable, "-I", "-S", LAUNCHER, way, str(user.pw_uid), str(user.pw_gid))


def _what_stops(identity: Identity, paths: Sequence[Path]) -> str | None:
    command = [*identity.prefix, "--reach", *map(str, paths)]
    try:
        answer = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)  # noqa: S603
    except (OSError, subprocess.SubprocessError) as error:
        return str(error)
    if answer.returncode == 0:
        return None
    if answer.returncode == UNREACHABLE:
        return f"{answer.stdout} can't be reached"
    lines = answer.stderr.strip().splitlines()
    return lines[-1] if lines else f"exit code {answer.returncode}"


def _let_through(directories: Sequence[Path]) -> None:
    # Passing is not reading: all that is in there is private to its owner.
    for directory in directories:
        found = directory.stat()
        if found.st_uid == os.geteuid() and not found.st_mode & 0o001:
            directory.chmod((found.st_mode & 0o7777) | 0o001)


def _hand_over(directories: Sequence[Path], identity: Identity) -> None:
    # From the bottom up, so that the owner of the top says whether all of it has been handed over.
    for top in directories:
        if top.stat().st_uid == identity.uid:
            continue
        for path, folders, files in os.walk(top, topdown=False):
            for name in (*folders, *files):
                os.chown(Path(path, name), identity.uid, identity.gid, follow_symlinks=False)
        os.chown(top, identity.uid, identity.gid)

"""A small disk under a part of the data directory: a tmpfs in a mount namespace that only the platform is in."""

from __future__ import annotations

import asyncio
import errno
import os
import shutil
import subprocess
from pathlib import Path

MOUNT = 'mount -t tmpfs -o size="$0",mode=700 tmpfs "$1" && shift && exec "$@"'
UNSHARE = ("unshare", "--user", "--map-root-user", "--mount")


def why_not() -> str | None:
    """Why this machine can't have such a disk; None when it can."""
    if not (shutil.which("unshare") and shutil.which("nsenter")):
        return "there is no unshare or nsenter"
    command = [*UNSHARE, "sh", "-c", MOUNT, "1m", "/mnt", "true"]
    tried = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    return None if tried.returncode == 0 else f"no mounts in a namespace of our own: {tried.stderr.strip()}"


class Disk:
    """`wrapper` goes in front of the platform's command; `entered` says by which process the disk is found."""

    def __init__(self, directory: Path, size: str) -> None:
        directory.mkdir(mode=0o700, parents=True)
        self.wrapper = (*UNSHARE, "sh", "-c", MOUNT, size, str(directory))
        self._directory = directory
        self._pid = 0

    def entered(self, pid: int) -> None:
        self._pid = pid

    @property
    def _filler(self) -> Path:
        return Path(f"/proc/{self._pid}/root{self._directory}/filler")

    def fill(self) -> None:
        """To the last byte."""
        with self._filler.open("ab", buffering=0) as file:
            for size in (1 << 16, 1 << 10, 1):
                try:
                    while True:
                        file.write(b"\0" * size)
                except OSError as error:
                    if error.errno != errno.ENOSPC:
                        raise

    def make_room(self) -> None:
        self._filler.unlink()

    async def make_read_only(self) -> None:
        """Fails while a file on it is open for writing."""
        await self._remount("ro")

    async def make_writable(self) -> None:
        await self._remount("rw")

    async def _remount(self, how: str) -> None:
        command = ("nsenter", "--target", str(self._pid), "--user", "--mount", "--preserve-credentials")
        process = await asyncio.create_subprocess_exec(
            *command, "mount", "-o", f"remount,{how}", str(self._directory), env=dict(os.environ)
        )
        assert await process.wait() == 0

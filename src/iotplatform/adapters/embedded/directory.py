"""The data directory: one process at a time, its folders, its secrets."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import os
import re
import stat
import tempfile
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from iotplatform.errors import ConfigError

# sun_path holds 104 bytes on macOS and 108 on Linux, the closing zero included.
_LONGEST_SOCKET_PATH: Final = 103
_LONGEST_SOCKET_NAME: Final = "/postgres/.s.PGSQL.5432"
# In a data directory while a backup is put back into it.
DRAFT: Final = "restoring"
# Drivers take a comma or a colon in PostgreSQL's `host` for a list or a port; what is not UTF-8 gets into no URL.
_PLAIN: Final = re.compile(r"[^,:\x00-\x1f\udc80-\udcff]+")


class DataDirectory:
    """Everything embedded lives below it. Whoever has one open is the only process that does.

    nats/, postgres/, redis/   the servers' data
    run/                       sockets and pid files (elsewhere when the path is too long or too odd for a socket)
    secrets/                   one value per file
    logs/                      what the servers print
    """

    def __init__(self, path: Path, run: Path, lock: int) -> None:
        self.path = path
        self.nats = path / "nats"
        self.postgres = path / "postgres"
        self.redis = path / "redis"
        self.run = run
        self.secrets = path / "secrets"
        self.logs = path / "logs"
        self._lock: int | None = lock

    @classmethod
    def open(cls, path: Path | str) -> Self:
        """Make what is missing and take the lock, which ends with `close` or with the process.

        Raises:
            ConfigError: another process has it, or it can't be made or written.
        """
        path = Path(path).absolute()
        try:
            path.mkdir(mode=0o700, parents=True, exist_ok=True)
            lock = _take_lock(path)
        except OSError as error:
            raise _unusable(path, error) from error
        try:
            run = _run_directory(path)
            directory = cls(path, run, lock)
            if (path / DRAFT).exists():
                raise ConfigError(
                    f"{path}: a restore into it did not come to its end: remove what is in there, and restore again"
                )
            for private in (directory.nats, directory.postgres, directory.redis, directory.secrets, directory.logs):
                _make_private(private)
        except OSError as error:
            os.close(lock)
            raise _unusable(path, error) from error
        except ConfigError:
            os.close(lock)
            raise
        return directory

    def secret(self, name: str, make: Callable[[], str]) -> str:
        """The secret of that name; the first time, what `make` returns, on disk before it is used."""
        file = self.secrets / name
        with contextlib.suppress(FileNotFoundError):
            return file.read_text(encoding="utf-8")
        value = make()
        write_private(file, value)
        return value

    def close(self) -> None:
        if self._lock is None:
            return
        if self.run.parent != self.path:
            # A directory below the system's temp dir: not left there empty.
            with contextlib.suppress(OSError):
                self.run.rmdir()
        os.close(self._lock)
        self._lock = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def write_private(file: Path, text: str) -> None:
    """Replace a file as a whole: readable by its owner only, and never half written, whatever happens meanwhile."""
    draft = file.with_name(f"{file.name}.new")
    with contextlib.suppress(FileNotFoundError):
        draft.unlink()
    with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as writer:
        writer.write(text)
        writer.flush()
        os.fsync(writer.fileno())
    draft.replace(file)
    sync_directory(file.parent)


def sync_directory(directory: Path) -> None:
    """A new or renamed entry survives the power only once its directory is synced."""
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _take_lock(path: Path) -> int:
    # Python opens descriptors close-on-exec: no server inherits the lock and keeps it after our death.
    lock = os.open(path / "lock", os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.ftruncate(lock, 0)
        os.pwrite(lock, f"{os.getpid()}\n".encode(), 0)
    except OSError as error:
        holder = os.pread(lock, 32, 0).decode(errors="replace").strip()
        os.close(lock)
        if error.errno in {errno.EAGAIN, errno.EACCES}:
            raise ConfigError(
                f"{path} is in use by process {holder or '(unknown)'}: stop that one,"
                " or give this one another directory with --data-dir"
            ) from None
        raise
    return lock


def _run_directory(path: Path) -> Path:
    run = path / "run"
    if _fits(run) and _PLAIN.fullmatch(str(run)):
        _make_private(run)
        return run
    # The same one for the same data directory, so that what another run left there is found again.
    digest = hashlib.sha256(os.fsencode(path.resolve())).hexdigest()[:16]
    run = Path(tempfile.gettempdir()) / f"iotplatform-{os.geteuid()}-{digest}"
    if not _fits(run):
        run = Path("/tmp") / run.name  # noqa: S108 - checked below before it is used
    with contextlib.suppress(FileExistsError):
        run.mkdir(mode=0o700)
    # Everybody can write there: what waits under the name must be a directory of ours that nobody else can look into.
    found = run.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid() or found.st_mode & 0o066:
        raise ConfigError(
            f"{run} is not a private directory of this user: remove it, or choose a shorter path with --data-dir"
        )
    return run


def _fits(run: Path) -> bool:
    return len(os.fsencode(run)) + len(_LONGEST_SOCKET_NAME) <= _LONGEST_SOCKET_PATH


def _make_private(directory: Path) -> None:
    directory.mkdir(mode=0o700, exist_ok=True)
    # An earlier start may have let PostgreSQL's own user through (see privilege.py); reading was never granted.
    if directory.stat().st_uid == os.geteuid() and directory.stat().st_mode & 0o066:
        directory.chmod(0o700)


def _unusable(path: Path, error: OSError) -> ConfigError:
    where = error.filename or path
    return ConfigError(
        f"{path} can't be the data directory ({where}: {error.strerror}): choose another one with --data-dir"
    )

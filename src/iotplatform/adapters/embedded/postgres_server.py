"""The embedded PostgreSQL: on a unix socket in a private directory, synced, modest in memory."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import signal
import tempfile
from pathlib import Path
from typing import Final
from urllib.parse import quote

import structlog

from iotplatform.adapters.embedded.directory import DataDirectory, sync_directory
from iotplatform.adapters.embedded.postgres_wire import PostgresError, connect_and_run
from iotplatform.adapters.embedded.privilege import Identity, choose_identity
from iotplatform.adapters.embedded.processes import Mark
from iotplatform.adapters.embedded.programs import Postgres, find_postgres
from iotplatform.adapters.embedded.server import Command, Health, StopStep
from iotplatform.errors import ConfigError, Unavailable

log = structlog.get_logger()

USER: Final = "iotplatform"
DATABASE: Final = "iotplatform"
_PORT: Final = 5432
_SETTINGS: Final = {
    "listen_addresses": "",
    # Given here so that a PGPORT of the caller changes nothing.
    "port": str(_PORT),
    "unix_socket_permissions": "0700",
    "fsync": "on",
    "synchronous_commit": "on",
    "full_page_writes": "on",
    "max_connections": "100",
    # A query without bounds in time locks every partition of the readings, and its index.
    "max_locks_per_transaction": "256",
    "shared_buffers": "64MB",
    "huge_pages": "off",
    "max_wal_size": "1GB",
    "jit": "off",
    "timezone": "UTC",
    "log_timezone": "UTC",
    "log_destination": "stderr",
    "logging_collector": "off",
    "log_line_prefix": "%m [%p] ",
    "cluster_name": "iotplatform",
}

_NO_SUCH_DATABASE: Final = "3D000"
_DATABASE_EXISTS: Final = "42P04"
_STARTING_OR_STOPPING: Final = "57P03"
_TOO_MANY_CONNECTIONS: Final = "53300"


class PostgresServer:
    """See `Server`. Its cluster is made at the first start, under another name until it is complete."""

    name = "postgres"
    # After the crash of a session it recovers without our help, and that may take long.
    recovers_by_itself = True
    # Fast shutdown, then immediate shutdown.
    stop_steps: tuple[StopStep, ...] = (StopStep(signal.SIGINT, 60.0), StopStep(signal.SIGQUIT, 5.0))

    def __init__(self, directory: DataDirectory) -> None:
        self._directory = directory
        self._cluster = directory.postgres / "cluster"
        self._sockets = directory.run / "postgres"
        # As whom it runs, once that is known.
        self._identity: Identity | None = None
        self.log = directory.logs / "postgres.log"
        self.mark = Mark(("postgres", "initdb"), (directory.postgres, self._cluster), self._cluster)

    @property
    def url(self) -> str:
        return f"postgresql://{USER}@/{DATABASE}?host={quote(str(self._sockets), safe='')}"

    async def prepare(self) -> Command:
        installed = await asyncio.to_thread(_choose_installation, self._cluster)
        await asyncio.to_thread(self._sockets.mkdir, mode=0o700, exist_ok=True)
        if self._identity is None:
            self._identity = await choose_identity(
                self._directory, installed.bin / "postgres", (self._directory.postgres, self._sockets)
            )
        await asyncio.to_thread(self._clear_leftovers)
        if not await asyncio.to_thread(self._cluster.exists):
            await self._make_cluster(installed, self._identity)
        # In quotes, because the setting is a list; and doubled within, as PostgreSQL does it.
        sockets = '"' + str(self._sockets).replace('"', '""') + '"'
        settings = {**_SETTINGS, "unix_socket_directories": sockets}
        options = (option for name, value in settings.items() for option in ("-c", f"{name}={value}"))
        return Command(
            (*self._identity.prefix, str(installed.bin / "postgres"), "-D", str(self._cluster), *options),
            self._cluster,
            _environment(),
        )

    def _clear_leftovers(self) -> None:
        # No PostgreSQL runs here: the supervision has looked. When a crash left a lock file whose pid lives, it is
        # somebody else's by now, as easily happens in a container, and PostgreSQL would refuse to start. A file whose
        # pid is dead is left to PostgreSQL, which then looks at its shared memory too.
        for lock in (self._cluster / "postmaster.pid", self._sockets / f".s.PGSQL.{_PORT}.lock"):
            if _names_a_living_process(lock):
                lock.unlink()
        for draft in self._directory.postgres.glob("initdb-*"):
            shutil.rmtree(draft, ignore_errors=True)

    async def _make_cluster(self, installed: Postgres, identity: Identity) -> None:
        draft = Path(await asyncio.to_thread(tempfile.mkdtemp, prefix="initdb-", dir=self._directory.postgres))
        # Code point order everywhere, as "C", but upper and lower case beyond ASCII too, where it is built in.
        locale = ["--locale=C"]
        if installed.major >= 17:
            locale += ["--locale-provider=builtin", "--builtin-locale=C.UTF-8"]
        try:
            await asyncio.to_thread(os.chown, draft, identity.uid, identity.gid)
            await _run(
                [
                    *identity.prefix,
                    str(installed.bin / "initdb"),
                    *("-D", str(draft), "-U", USER, "-E", "UTF8", *locale),
                    # Whoever can enter the socket's directory is the owner, and nobody comes by network.
                    *("--auth-local=trust", "--auth-host=reject", "--no-instructions"),
                ],
                self._directory.postgres,
            )
        except BaseException:
            await asyncio.to_thread(shutil.rmtree, draft, ignore_errors=True)
            raise
        # Not undone when it is cancelled: the thread goes on, and what it puts in place is complete.
        await asyncio.to_thread(self._put_in_place, draft)

    def _put_in_place(self, draft: Path) -> None:
        draft.rename(self._cluster)
        sync_directory(self._directory.postgres)

    async def probe(self) -> Health:
        socket = self._sockets / f".s.PGSQL.{_PORT}"
        try:
            await connect_and_run(socket, USER, DATABASE)
        except PostgresError as error:
            if error.code == _NO_SUCH_DATABASE:
                return await self._create_database(socket)
            if error.code == _TOO_MANY_CONNECTIONS:
                return Health.READY
            if error.code != _STARTING_OR_STOPPING:
                return Health.SILENT
            # On SIGTERM it waits for its clients to leave, and ours never do.
            return Health.STOPPING if "shutting down" in str(error) else Health.BUSY
        return Health.READY

    async def _create_database(self, socket: Path) -> Health:
        try:
            await connect_and_run(socket, USER, "postgres", f"CREATE DATABASE {DATABASE}")
        except PostgresError as error:
            if error.code != _DATABASE_EXISTS:
                log.warning("embedded.no_database", server=self.name, reason=str(error))
                return Health.SILENT
        return Health.READY

    def close(self) -> None:
        pass


def _choose_installation(cluster: Path) -> Postgres:
    # A cluster is only opened by the version that made it.
    version = cluster / "PG_VERSION"
    try:
        major = int(version.read_text(encoding="ascii"))
    except FileNotFoundError:
        return find_postgres()
    except (OSError, ValueError) as error:
        raise ConfigError(f"{version} can't be read ({error}): choose another directory with --data-dir") from error
    return find_postgres(major)


def _names_a_living_process(lock: Path) -> bool:
    try:
        os.kill(int(lock.read_text(encoding="utf-8").split()[0]), 0)
    except PermissionError:
        return True
    except (OSError, ValueError, IndexError):
        return False
    return True


async def _run(command: list[str], directory: Path) -> None:
    process = await asyncio.create_subprocess_exec(
        *command,
        cwd=directory,
        env=_environment(),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.PIPE,
        start_new_session=True,
    )
    try:
        _, complaint = await process.communicate()
    finally:
        if process.returncode is None:
            # initdb has children of its own, in its session.
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            await process.wait()
    if process.returncode != 0:
        lines = complaint.decode(errors="replace").strip().splitlines()
        raise Unavailable(f"initdb failed: {' '.join(lines[-2:])}")


def _environment() -> dict[str, str]:
    # A PGOPTIONS, or a locale that is not installed, would reach our servers.
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("PG", "LC_"))}
    return {**kept, "LC_ALL": "C"}

"""The embedded nats-server: JetStream on disk, a user with a password, nobody else."""

from __future__ import annotations

import asyncio
import contextlib
import os
import secrets
import signal
from typing import Final

from iotplatform.adapters.embedded.directory import DataDirectory, write_private
from iotplatform.adapters.embedded.ports import ReservedPort
from iotplatform.adapters.embedded.processes import Mark
from iotplatform.adapters.embedded.programs import find_nats_server
from iotplatform.adapters.embedded.quoting import quoted
from iotplatform.adapters.embedded.server import Command, Health, StopStep
from iotplatform.adapters.embedded.settings import EmbeddedSettings

MAX_PAYLOAD: Final = 8 * 1024 * 1024
USER: Final = "platform"
# With less on its disk a restart would not help.
ROOM_BYTES: Final = 8 << 20


class NatsServer:
    """See `Server`. The ports are chosen before the first start and stay."""

    name = "nats"
    # It answers 503 while it loads its streams; later that means that JetStream was shut off, or that a stream could
    # not be written. Tried on 2.15.1: a stream that met a full disk takes nothing more, room or not, until a restart.
    recovers_by_itself = False
    # Stopping takes longer the more streams there are.
    stop_steps: tuple[StopStep, ...] = (StopStep(signal.SIGTERM, 60.0),)

    def __init__(self, directory: DataDirectory, settings: EmbeddedSettings) -> None:
        self._directory = directory
        self._settings = settings
        self._config = directory.nats / "nats-server.conf"
        self._clients: ReservedPort | None = None
        self._monitor: ReservedPort | None = None
        self._password = ""
        self.log = directory.logs / "nats.log"
        self.mark = Mark(("nats-server",), (directory.nats,), self._config)

    async def prepare(self) -> Command:
        program = await asyncio.to_thread(find_nats_server)
        await asyncio.to_thread(self._configure)
        return Command((str(program), "-c", str(self._config)), self._directory.nats, dict(os.environ))

    def _configure(self) -> None:
        if self._clients is None:
            self._clients = ReservedPort.reserve(self._settings.host, self._settings.nats_port, "embedded.nats_port")
        if self._monitor is None:
            self._monitor = ReservedPort.reserve(
                self._settings.host, self._settings.nats_monitor_port, "embedded.nats_monitor_port"
            )
        self._password = self._directory.secret("nats-platform-password", _new_password)
        system_password = self._directory.secret("nats-sys-password", _new_password)
        write_private(
            self._config,
            f"""\
# Written at every start of iotplatform: changes made here are lost.
server_name: "iotplatform"
host: {quoted(self._clients.address)}
port: {self._clients.port}
http_port: {self._monitor.port}
pid_file: {quoted(self._directory.run / "nats.pid")}
max_payload: {MAX_PAYLOAD}

jetstream {{
  store_dir: {quoted(self._directory.nats)}
  sync_interval: {quoted(self._settings.nats_sync)}
  # Every stream reserves its max_bytes here; the disk is the limit, and each stream's own.
  max_file_store: 1000TB
  # 2.15 refuses the 1,001st consumer of a stream otherwise.
  limits {{ default_max_consumers: -1 }}
}}

accounts {{
  PLATFORM {{
    jetstream: enabled
    users: [ {{ user: "{USER}", password: {quoted(self._password)} }} ]
  }}
  SYS {{
    users: [ {{ user: "sys", password: {quoted(system_password)} }} ]
  }}
}}
system_account: SYS
""",
        )

    @property
    def url(self) -> str:
        if self._clients is None:
            raise RuntimeError("not started")
        return f"nats://{USER}:{self._password}@{self._clients.authority}"

    @property
    def monitor_url(self) -> str:
        if self._monitor is None:
            raise RuntimeError("not started")
        return f"http://{self._monitor.authority}"

    async def probe(self) -> Health:
        """Healthy by its own account, and greeting clients: the monitoring port opens before the streams are loaded."""
        if self._clients is None or self._monitor is None:
            return Health.SILENT
        # With every stream: one that can't be written shows nowhere else. 400 streams with 1,600 consumers take 0.04 s.
        status = (await _first_line(self._monitor, b"GET /healthz HTTP/1.0\r\n\r\n")).split()[1]
        if status != b"200":
            # Streams that can't be written can still be read, so without room it is better than nothing.
            return Health.BUSY if await asyncio.to_thread(self._has_room) else Health.WAITING
        try:
            greeting = await _first_line(self._clients)
        except ConnectionRefusedError:
            return Health.BUSY
        return Health.READY if greeting.startswith(b"INFO ") else Health.SILENT

    def _has_room(self) -> bool:
        disk = os.statvfs(self._directory.nats)
        return disk.f_bavail * disk.f_frsize >= ROOM_BYTES and not disk.f_flag & os.ST_RDONLY

    def close(self) -> None:
        for port in (self._clients, self._monitor):
            if port is not None:
                port.close()
        self._clients = self._monitor = None


async def _first_line(port: ReservedPort, request: bytes = b"") -> bytes:
    reader, writer = await asyncio.open_connection(port.host, port.port)
    try:
        writer.write(request)
        line = await reader.readline()
    finally:
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()
    if not line:
        raise EOFError("closed without an answer")
    return line


def _new_password() -> str:
    return secrets.token_urlsafe(32)

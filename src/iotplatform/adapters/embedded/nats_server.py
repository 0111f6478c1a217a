"""The embedded nats-server: JetStream on disk, a user with a password, and devices if they are let in."""

from __future__ import annotations

import asyncio
import contextlib
import os
import secrets
import signal
from typing import Final

from iotplatform.adapters.embedded.directory import DataDirectory, write_private
from iotplatform.adapters.embedded.nats_config import USER, Address, Passwords, Places, config_text
from iotplatform.adapters.embedded.ports import ReservedPort
from iotplatform.adapters.embedded.processes import Mark
from iotplatform.adapters.embedded.programs import find_nats_server
from iotplatform.adapters.embedded.server import Command, Health, StopStep
from iotplatform.adapters.embedded.settings import CalloutUsers, EmbeddedSettings

# With less on its disk a restart would not help.
ROOM_BYTES: Final = 8 << 20
# It holds little and makes much garbage: collected more rarely it has much more of its time for messages of MQTT, for
# some 20 MB. An environment that says something else is heard.
COLLECT_AT: Final = "400"


class NatsServer:
    """See `Server`. The ports are chosen before the first start and stay."""

    name = "nats"
    # It answers 503 while it loads its streams; later that means that JetStream was shut off, or that a stream could
    # not be written. Tried on 2.15.1: a stream that met a full disk takes nothing more, room or not, until a restart.
    recovers_by_itself = False
    # Stopping takes longer the more streams there are.
    stop_steps: tuple[StopStep, ...] = (StopStep(signal.SIGTERM, 60.0),)

    def __init__(
        self, directory: DataDirectory, settings: EmbeddedSettings, callout: CalloutUsers | None = None
    ) -> None:
        self._directory = directory
        self._settings = settings
        self._callout = callout
        self._config = directory.nats / "nats-server.conf"
        self._clients: ReservedPort | None = None
        self._monitor: ReservedPort | None = None
        self._mqtt: ReservedPort | None = None
        self._websocket: ReservedPort | None = None
        self._password = ""
        self.log = directory.logs / "nats.log"
        self.mark = Mark(("nats-server",), (directory.nats,), self._config)

    async def prepare(self) -> Command:
        program = await asyncio.to_thread(find_nats_server)
        await asyncio.to_thread(self._configure)
        environment = {"GOGC": COLLECT_AT, **os.environ}
        return Command((str(program), "-c", str(self._config)), self._directory.nats, environment)

    def _configure(self) -> None:
        settings = self._settings
        if self._clients is None:
            self._clients = self._reserve("nats_port")
        if self._monitor is None:
            self._monitor = self._reserve("nats_monitor_port")
        if self._mqtt is None and settings.mqtt_port is not None:
            self._mqtt = self._reserve("mqtt_port")
        if self._websocket is None and settings.websocket_port is not None:
            self._websocket = self._reserve("websocket_port")
        self._password = platform_password(self._directory)
        places = Places(
            clients=_address(self._clients),
            monitor=_address(self._monitor),
            mqtt=None if self._mqtt is None else _address(self._mqtt),
            websocket=None if self._websocket is None else _address(self._websocket),
            store=self._directory.nats,
            pid_file=self._directory.run / "nats.pid",
        )
        passwords = Passwords(self._password, self._directory.secret("nats-sys-password", _new_password))
        write_private(self._config, config_text(places, passwords, settings, self._callout))

    def _reserve(self, name: str) -> ReservedPort:
        return ReservedPort.reserve(self._settings.host, getattr(self._settings, name), f"embedded.{name}")

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

    @property
    def mqtt_url(self) -> str | None:
        if self._mqtt is None:
            return None
        return f"{'mqtt' if self._settings.tls_cert is None else 'mqtts'}://{self._mqtt.authority}"

    @property
    def websocket_url(self) -> str | None:
        """MQTT over WebSocket; NATS over WebSocket is at the same place without the path."""
        if self._websocket is None:
            return None
        return f"{'ws' if self._settings.tls_cert is None else 'wss'}://{self._websocket.authority}/mqtt"

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
        for port in (self._clients, self._monitor, self._mqtt, self._websocket):
            if port is not None:
                port.close()
        self._clients = self._monitor = self._mqtt = self._websocket = None


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


def platform_password(directory: DataDirectory) -> str:
    """Of the platform's own user: made at the first start, and kept."""
    return directory.secret("nats-platform-password", _new_password)


def _address(port: ReservedPort) -> Address:
    return Address(port.address, port.port)


def _new_password() -> str:
    return secrets.token_urlsafe(32)

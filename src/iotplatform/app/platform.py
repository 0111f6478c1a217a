"""A process of the platform, from settings to the last flush."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import time
from collections.abc import Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Final

import structlog

from iotplatform.adapters.embedded import DataDirectory
from iotplatform.app.foreign_certificate import ForeignCertificate
from iotplatform.app.gauges import add_gauges
from iotplatform.app.health import Health, loop_lag
from iotplatform.app.http.apps import operations_app
from iotplatform.app.http.certificate import Certificate, CertificateFiles
from iotplatform.app.http.server import HttpServer, bind, url_of
from iotplatform.app.resources import Resources, open_resources
from iotplatform.app.roles import Assembly, assemble, configured_keys, operations_rules
from iotplatform.app.runtime_file import RuntimeFile, remove_runtime_file
from iotplatform.app.server_watch import ServerWatch
from iotplatform.app.settings import RoleName, Settings
from iotplatform.app.settings_sections import Listener
from iotplatform.observability.metrics import Metrics
from iotplatform.runtime.tasks import Tasks

log = structlog.get_logger()

HTTP_STARTED_S: Final = 10.0


class Platform:
    """`run` returns after `stop` was asked for and everything is flushed; it raises when a task has died."""

    def __init__(self, settings: Settings, roles: frozenset[RoleName], metrics: Metrics) -> None:
        self._settings = settings
        self._roles = roles
        self._metrics = metrics
        self._stop = asyncio.Event()
        files = settings.tls.files
        self._certificate = None if files is None else Certificate(CertificateFiles(*files))
        self.started_in_s = 0.0
        self.setup_token: str | None = None

    def stop(self) -> None:
        self._stop.set()

    @property
    def reload(self) -> Callable[[], None] | None:
        """Has the certificate looked at again, now; None where there is none."""
        return None if self._certificate is None else self._certificate.look

    async def run(self, on_ready: Callable[[RuntimeFile, float], None]) -> None:
        """Start, call `on_ready`, and serve until `stop`.

        Raises:
            ConfigError: a setting is wrong.
            Unavailable: a server could not be reached.
            TaskDied: a role or a connection's keeper has ended by itself.
        """
        began = time.monotonic()
        if "management" in self._roles:
            # Looked at again when they are used; here so that a wrong key ends in one line at once.
            configured_keys(self._settings)
        if self._certificate is not None:
            await asyncio.to_thread(self._certificate.load)
        async with AsyncExitStack() as stack:
            data = await asyncio.to_thread(DataDirectory.open, self._settings.data_path)
            stack.push_async_callback(asyncio.to_thread, data.close)
            # Before anything is started, so that an occupied port ends in one line at once.
            sockets = self._bind(stack)
            tasks = Tasks("platform")
            resources = await open_resources(self._settings, data, self._metrics, stack, tasks)
            assembly = await assemble(self._roles, self._settings, resources, data, self._metrics, stack)
            self.setup_token = assembly.setup_token
            health = Health(resources, self._roles)
            self._expose(resources, assembly, health, stack, tasks)
            for role in assembly.roles:
                await role.start()
                stack.push_async_callback(role.stop)
                tasks.start(role.wait(), role.name)
            apps = {**assembly.apps, "operations": operations_app(health.problems, operations_rules(self._settings))}
            server = HttpServer(
                {listener: apps[name] for name, listener in sockets.items()},
                {sockets[name]: hot_path for name, hot_path in assembly.hot_paths.items()},
                self._certificate,
                self._settings.auth.proxies,
            )
            if self._certificate is not None:
                tasks.start(self._certificate.watch(), "certificate")
            serving = tasks.spawn(server.run(), "http")
            stack.push_async_callback(_drain, server, serving)
            async with asyncio.timeout(HTTP_STARTED_S):
                await server.wait_started()
            file = _runtime_file(sockets, resources, self._certificate)
            await asyncio.to_thread(file.write, data.path)
            stack.push_async_callback(asyncio.to_thread, remove_runtime_file, data.path)
            health.ready = True
            self.started_in_s = time.monotonic() - began
            on_ready(file, self.started_in_s)
            for end in assembly.endings:
                stack.callback(end)
            stack.callback(health.stopping)
            await self._until_stopped(tasks)
            await self._let_balancers_notice(health, server, tasks)

    async def _let_balancers_notice(self, health: Health, server: HttpServer, tasks: Tasks) -> None:
        """Not ready any more, and still serving whoever has not noticed; being told to stop again ends it."""
        grace_s = self._settings.operations.grace_s
        if not grace_s:
            return
        health.stopping()
        server.leave()
        log.info("platform.leaving", grace_s=grace_s)
        self._stop.clear()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(grace_s):
                await self._until_stopped(tasks)

    async def _until_stopped(self, tasks: Tasks) -> None:
        stopped = asyncio.get_running_loop().create_task(self._stop.wait(), name="platform.stop")  # owned here
        died = asyncio.get_running_loop().create_task(tasks.wait(), name="platform.watch")
        try:
            await asyncio.wait({stopped, died}, return_when=asyncio.FIRST_COMPLETED)
            if died.done():
                died.result()
        finally:
            stopped.cancel()
            died.cancel()

    def _bind(self, stack: AsyncExitStack) -> dict[str, socket.socket]:
        listeners: dict[str, Listener] = {"operations": self._settings.operations}
        if "ingest" in self._roles:
            listeners["ingest"] = self._settings.ingest
        if "management" in self._roles:
            listeners["management"] = self._settings.management
        sockets: dict[str, socket.socket] = {}
        for name, listener in listeners.items():
            sockets[name] = bind(name, listener.host, listener.port)
            stack.callback(sockets[name].close)
        return sockets

    def _expose(
        self, resources: Resources, assembly: Assembly, health: Health, stack: AsyncExitStack, tasks: Tasks
    ) -> None:
        nats_certificate = self._certificate_of_nats(resources)
        if nats_certificate is not None:
            tasks.start(nats_certificate.watch(), "nats_certificate")
        add_gauges(
            self._metrics,
            self._settings,
            self._roles,
            resources,
            assembly,
            health,
            self._certificate,
            nats_certificate,
        )
        self._metrics.expose()
        stack.callback(self._metrics.close)
        tasks.start(loop_lag(health, self._metrics.event_loop_delay), "loop_lag")
        if "persistence" in self._roles:
            tasks.start(ServerWatch(resources, self._metrics).run(), "servers")

    def _certificate_of_nats(self, resources: Resources) -> ForeignCertificate | None:
        file = self._settings.embedded.tls_cert
        return ForeignCertificate(Path(file)) if file and resources.urls.mqtt is not None else None


async def _drain(server: HttpServer, serving: asyncio.Task[None]) -> None:
    server.stop()
    await asyncio.wait({serving})


def _runtime_file(
    sockets: dict[str, socket.socket], resources: Resources, certificate: Certificate | None
) -> RuntimeFile:
    urls = resources.urls
    scheme = "http" if certificate is None else "https"
    http = {name: url_of(listener, scheme) for name, listener in sockets.items()}
    return RuntimeFile(
        pid=os.getpid(),
        ingest=http.get("ingest"),
        management=http.get("management"),
        operations=http.get("operations"),
        nats=urls.nats,
        nats_monitor=urls.nats_monitor,
        mqtt=urls.mqtt,
        mqtt_websocket=urls.mqtt_websocket,
        postgres=urls.postgres,
        redis=urls.redis,
        certificate=None if certificate is None else str(certificate.files.cert),
    )

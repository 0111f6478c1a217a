"""Several ports from one event loop: one Uvicorn server with sockets bound beforehand, and a switch by port.

Two Uvicorn servers in a process don't drain properly, each of them re-raises the signal; one with several sockets does.
"""

from __future__ import annotations

import asyncio
import contextlib
import resource
import socket
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

import uvicorn

from iotplatform.app.http.certificate import Certificate
from iotplatform.app.http.forwarding import Forwarding, Network
from iotplatform.app.http.hot_path import HotPath, HotProtocol
from iotplatform.app.http.problems import send_problem
from iotplatform.app.http.protocol import watch
from iotplatform.app.http.tls_listener import BACKLOG, TlsListener
from iotplatform.errors import ConfigError, Unavailable

DRAIN_S: Final = 20
# Whoever is in front has to end idle connections earlier (config/nginx): else it sends a POST into one that ends.
KEEP_ALIVE_S: Final = 30
MOST_CONNECTIONS: Final = 10_000
# Connections to our servers, listeners, files, and what tests and users have open beside.
OTHER_FILES: Final = 256

App = Any


def bind(setting: str, host: str, port: int) -> socket.socket:
    """A listening socket.

    Raises:
        ConfigError: naming the setting, when the address can't be had.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    except OSError as error:
        raise ConfigError(f"{setting}.host: {host} is no address of this machine: {error.strerror}") from error
    listener = socket.socket(family, kind, protocol)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind(address)
    except OSError as error:
        listener.close()
        raise ConfigError(
            f"{setting}.port: {host}:{port} can't be had ({error.strerror}): stop what uses it, "
            "or set another port (0 takes a free one)"
        ) from error
    listener.setblocking(False)  # noqa: FBT003 - its only parameter
    return listener


def port_of(listener: socket.socket) -> int:
    return int(listener.getsockname()[1])


def url_of(listener: socket.socket, scheme: str = "http") -> str:
    host, port = listener.getsockname()[:2]
    return f"{scheme}://[{host}]:{port}" if ":" in host else f"{scheme}://{host}:{port}"


def connections_of_a_port(ports: int) -> int:
    """How many each of them may have open: a flood on one leaves files for the others, and for everything else."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = MOST_CONNECTIONS * ports + OTHER_FILES
    if soft != resource.RLIM_INFINITY and soft < wanted:
        soft = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    if soft == resource.RLIM_INFINITY:
        return MOST_CONNECTIONS
    return max(16, min(MOST_CONNECTIONS, (soft - OTHER_FILES) // max(1, ports)))


class _Server(uvicorn.Server):
    def __init__(self, config: uvicorn.Config, certificate: Certificate | None) -> None:
        super().__init__(config)
        self.listening = asyncio.Event()
        self._certificate = certificate

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        if self._certificate is None:
            await super().startup(sockets)
        else:
            # Uvicorn closes them like its own.
            self.servers = [self._secured(listener, self._certificate) for listener in sockets or ()]  # type: ignore[misc]
            self.started = True
        self.listening.set()

    def _secured(self, listener: socket.socket, certificate: Certificate) -> TlsListener:
        kind: Any = self.config.http_protocol_class

        def protocol() -> asyncio.Protocol:
            made: asyncio.Protocol = kind(config=self.config, server_state=self.server_state, app_state={})
            return made

        return TlsListener(listener, certificate, protocol, kind.open_connections, kind.most_connections)

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        # Signals are the platform's: it decides what stops, and in which order.
        yield


class HttpServer:
    """`hot_paths` are the short ways of some of the listeners, beside their applications.

    With a certificate all of them speak TLS, and nothing else.
    """

    def __init__(
        self,
        apps: Mapping[socket.socket, App],
        hot_paths: Mapping[socket.socket, HotPath] | None = None,
        certificate: Certificate | None = None,
        trusted_proxies: Sequence[Network] = (),
    ) -> None:
        self._sockets = list(apps)
        self._by_port = {port_of(listener): app for listener, app in apps.items()}
        shortened = {port_of(listener): hot_path for listener, hot_path in (hot_paths or {}).items()}
        bounds = {"open_connections": {}, "most_connections": connections_of_a_port(len(self._sockets))}
        protocol = type("BoundProtocol", (HotProtocol,), {"hot_paths": shortened, **bounds})
        self._protocol: Any = protocol
        config = uvicorn.Config(
            Forwarding(self._switch, trusted_proxies) if trusted_proxies else self._switch,
            lifespan="off",
            interface="asgi3",
            proxy_headers=False,
            http=protocol,
            ws="none",
            log_config=None,
            access_log=False,
            server_header=False,
            backlog=BACKLOG,
            timeout_keep_alive=KEEP_ALIVE_S,
            timeout_graceful_shutdown=DRAIN_S,
        )
        self._server = _Server(config, certificate)

    async def _switch(self, scope: Any, receive: Any, send: Any) -> None:
        try:
            await self._by_port[scope["server"][1]](scope, receive, send)
        except asyncio.CancelledError:
            if not self._server.should_exit:
                raise
            # The drain is over, and this one was not: its body never came to an end, or its work did not.
            cut_off = Unavailable(
                "the platform is stopping, and the outcome of the request is unknown", outcome_unknown=True
            )
            with contextlib.suppress(RuntimeError):  # its answer had begun
                await send_problem(cut_off, send)

    async def run(self) -> None:
        """Serve until `stop`; returns when every request that was taken has been answered."""
        watching = asyncio.get_running_loop().create_task(
            watch(self._server.server_state.connections), name="http.watch"
        )
        try:
            await self._server.serve(sockets=self._sockets)
        finally:
            watching.cancel()

    async def wait_started(self) -> None:
        await self._server.listening.wait()

    def leave(self) -> None:
        """Go on serving, and end each connection with its next answer: whoever keeps some open learns of it in time."""
        self._protocol.staying = False

    def stop(self) -> None:
        self._server.should_exit = True

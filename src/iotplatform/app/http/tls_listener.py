"""A port that speaks TLS: accepts, shakes hands, and hands the connection to the protocol of plain HTTP.

asyncio's own server would do both, but tells nobody of a handshake that does not come to its end: here those under way
count among the port's connections and have a deadline, and each begins with the certificate that holds in that moment.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable, Mapping
from typing import Final

import structlog

from iotplatform.app.http.certificate import Certificate
from iotplatform.app.http.protocol import HEAD_WITHIN_S

log = structlog.get_logger()

BACKLOG: Final = 2_048
# In one turn of the event loop.
ACCEPTED_AT_ONCE: Final = 64
REST_S: Final = 0.2
# How long a client may take to say goodbye.
GOODBYE_S: Final = 5.0


class TlsListener:
    """Closed like a server of asyncio. `open_connections` are those of the protocol, by port."""

    def __init__(
        self,
        listener: socket.socket,
        certificate: Certificate,
        protocol: Callable[[], asyncio.Protocol],
        open_connections: Mapping[int, int],
        most_connections: float,
    ) -> None:
        self._listener = listener
        self._port = int(listener.getsockname()[1])
        self._certificate = certificate
        self._protocol = protocol
        self._open_connections = open_connections
        self._most_connections = most_connections
        self._loop = asyncio.get_running_loop()
        self._handshakes: set[asyncio.Task[None]] = set()
        self._resting: asyncio.TimerHandle | None = None
        self._closed = False
        listener.listen(BACKLOG)
        self._loop.add_reader(listener, self._accept)

    def close(self) -> None:
        """Nothing more is accepted; who has not shaken hands has not asked for anything."""
        if self._closed:
            return
        self._closed = True
        self._loop.remove_reader(self._listener)
        if self._resting is not None:
            self._resting.cancel()
        for handshake in self._handshakes:
            handshake.cancel()

    async def wait_closed(self) -> None:
        if self._handshakes:
            await asyncio.wait(self._handshakes)

    def _accept(self) -> None:
        for _ in range(ACCEPTED_AT_ONCE):
            try:
                connection, _ = self._listener.accept()
            except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                return
            except OSError as error:
                # Out of files or of memory: what waits in the backlog can wait a little longer.
                log.warning("tls.not_accepted", detail=error.strerror)
                self._rest()
                return
            if len(self._handshakes) + self._open_connections.get(self._port, 0) >= self._most_connections:
                # There is no answer without a handshake, and that is what a flood must not get.
                connection.close()
                continue
            connection.setblocking(False)  # noqa: FBT003 - its only parameter
            handshake = self._loop.create_task(self._shake_hands(connection), name="http.handshake")
            self._handshakes.add(handshake)
            handshake.add_done_callback(self._handshakes.discard)

    async def _shake_hands(self, connection: socket.socket) -> None:
        try:
            await self._loop.connect_accepted_socket(
                self._protocol,
                connection,
                ssl=self._certificate.context,
                ssl_handshake_timeout=HEAD_WITHIN_S,
                ssl_shutdown_timeout=GOODBYE_S,
            )
        except (OSError, asyncio.CancelledError) as error:
            # No TLS, none that we speak, nobody, or too slow; strangers are not worth a line of the log.
            connection.close()
            log.debug("tls.no_handshake", detail=str(error))

    def _rest(self) -> None:
        self._loop.remove_reader(self._listener)
        self._resting = self._loop.call_later(REST_S, self._wake)

    def _wake(self) -> None:
        if not self._closed:
            self._loop.add_reader(self._listener, self._accept)

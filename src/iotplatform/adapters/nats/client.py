"""nats-py's client would tell its password to a server that says it has no TLS, although it was to have it."""

from __future__ import annotations

from nats.aio.client import Client
from nats.errors import Error as NatsError


class NoTls(NatsError):
    def __str__(self) -> str:
        return "the server offers no TLS, and nats.url says tls://"


class CarefulClient(Client):
    def _connect_command(self) -> bytes:
        """The first thing that is sent, with the password in it."""
        server = self._current_server
        # Where TLS is required the handshake was made before this.
        if server is not None and server.uri.scheme == "tls" and not self._server_info.get("tls_required"):
            raise NoTls
        return super()._connect_command()

"""Ports for the embedded NATS: checked before it starts, and kept while it is away."""

from __future__ import annotations

import errno
import socket
import sys

from iotplatform.errors import ConfigError


class ReservedPort:
    """A port that nobody else is given while the server that listens on it is being restarted.

    On Linux a socket that is bound but does not listen lets another one with SO_REUSEADDR listen on the same port, and
    keeps the kernel from giving the port to an outgoing connection. Elsewhere the port is checked and let go.
    """

    def __init__(self, address: str, port: int, holder: socket.socket | None) -> None:
        self.address = address
        self.port = port
        self._holder = holder

    @classmethod
    def reserve(cls, host: str, port: int, setting: str) -> ReservedPort:
        """Port 0 takes a free one.

        Raises:
            ConfigError: it is taken, or can't be had by this user, or the host is none of this machine's.
        """
        try:
            family, kind, protocol, _, address = socket.getaddrinfo(
                host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
            )[0]
        except OSError as error:
            raise ConfigError(f"embedded.host = {host}: {error.strerror or error}") from error
        holder = socket.socket(family, kind, protocol)
        try:
            # Without it a port stays refused for a minute after its server has gone (TIME_WAIT).
            holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            holder.bind(address)
        except OSError as error:
            holder.close()
            raise _explained(error, host, port, setting) from error
        name = holder.getsockname()
        if sys.platform != "linux":
            holder.close()
            return cls(str(name[0]), int(name[1]), None)
        return cls(str(name[0]), int(name[1]), holder)

    @property
    def host(self) -> str:
        """Where a client on this machine connects to."""
        return {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(self.address, self.address)  # noqa: S104 - read, not bound

    @property
    def authority(self) -> str:
        """The same with the port, for a URL."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    def close(self) -> None:
        if self._holder is not None:
            self._holder.close()


def _explained(error: OSError, host: str, port: int, setting: str) -> ConfigError:
    if error.errno == errno.EADDRINUSE:
        return ConfigError(
            f"{setting} = {port}: another program uses port {port}; stop it, or choose another one (0 takes a free one)"
        )
    if error.errno == errno.EACCES:
        return ConfigError(f"{setting} = {port}: this user may not open port {port}; choose one above 1023")
    return ConfigError(f"embedded.host = {host}: {error.strerror or error}")

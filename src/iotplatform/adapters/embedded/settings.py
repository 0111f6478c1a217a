"""The section `embedded` of the settings."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final

import msgspec

from iotplatform.errors import ConfigError

# What nats-server (Go) reads as a duration; zero would mean "never".
_DURATION: Final = re.compile(r"(?=.*[1-9])([0-9]+(ms|s|m|h))+")


class CalloutUsers(msgspec.Struct, frozen=True):
    """Public nkeys: who signs what clients may do, who is asked for it, and who watches connections."""

    issuer: str
    auth: str
    system: str


class EmbeddedSettings(msgspec.Struct, frozen=True):
    """Where the embedded NATS listens and how often it syncs. A port of 0 takes a free one."""

    host: str = "127.0.0.1"
    nats_port: int = 4222
    nats_monitor_port: int = 8222
    # None: not opened.
    mqtt_port: int | None = None
    websocket_port: int | None = None
    # PEM files for MQTT and WebSocket; both or none.
    tls_cert: str | None = None
    tls_key: str | None = None
    nats_sync: str = "always"

    def __post_init__(self) -> None:
        if not self.host:
            raise ConfigError("embedded.host is empty: give an address to listen on, such as 127.0.0.1")
        taken: dict[int, str] = {}
        for name in ("nats_port", "nats_monitor_port", "mqtt_port", "websocket_port"):
            port = getattr(self, name)
            if port is None:
                continue
            if not 0 <= port <= 65535:
                raise ConfigError(f"embedded.{name} = {port}: a port lies between 0 and 65535 (0 takes a free one)")
            if port in taken and port != 0:
                raise ConfigError(f"embedded.{taken[port]} and embedded.{name} are both {port}: make them different")
            taken[port] = name
        if (self.tls_cert is None) != (self.tls_key is None):
            raise ConfigError("embedded.tls_cert and embedded.tls_key belong together: set both, or none")
        for name in ("tls_cert", "tls_key"):
            file = getattr(self, name)
            if file is not None and not Path(file).is_file():
                raise ConfigError(f"embedded.{name}: there is no file {file}")
        if self.nats_sync != "always" and not _DURATION.fullmatch(self.nats_sync):
            raise ConfigError(f'embedded.nats_sync = "{self.nats_sync}": give "always" or a duration such as "2m"')

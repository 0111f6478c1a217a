"""The section `embedded` of the settings."""

from __future__ import annotations

import re
from typing import Final

import msgspec

from iotplatform.errors import ConfigError

# What nats-server (Go) reads as a duration; zero would mean "never".
_DURATION: Final = re.compile(r"(?=.*[1-9])([0-9]+(ms|s|m|h))+")


class EmbeddedSettings(msgspec.Struct, frozen=True):
    """Where the embedded NATS listens and how often it syncs. A port of 0 takes a free one."""

    host: str = "127.0.0.1"
    nats_port: int = 4222
    nats_monitor_port: int = 8222
    # Reserved: the MQTT listener is not opened yet.
    mqtt_port: int = 1883
    nats_sync: str = "always"

    def __post_init__(self) -> None:
        if not self.host:
            raise ConfigError("embedded.host is empty: give an address to listen on, such as 127.0.0.1")
        for name in ("nats_port", "nats_monitor_port", "mqtt_port"):
            port = getattr(self, name)
            if not 0 <= port <= 65535:
                raise ConfigError(f"embedded.{name} = {port}: a port lies between 0 and 65535 (0 takes a free one)")
        if self.nats_port == self.nats_monitor_port != 0:
            raise ConfigError(
                f"embedded.nats_port and embedded.nats_monitor_port are both {self.nats_port}: make them different"
            )
        if self.nats_sync != "always" and not _DURATION.fullmatch(self.nats_sync):
            raise ConfigError(f'embedded.nats_sync = "{self.nats_sync}": give "always" or a duration such as "2m"')

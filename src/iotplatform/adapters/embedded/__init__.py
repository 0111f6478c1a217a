"""The real nats-server, PostgreSQL and Redis as supervised child processes: what runs when no URL is configured."""

from iotplatform.adapters.embedded.directory import DataDirectory
from iotplatform.adapters.embedded.nats_server import platform_password
from iotplatform.adapters.embedded.server import ServerStatus, Timing
from iotplatform.adapters.embedded.servers import EmbeddedServers, ServerUrls
from iotplatform.adapters.embedded.settings import CalloutUsers, EmbeddedSettings

__all__ = [
    "CalloutUsers",
    "DataDirectory",
    "EmbeddedServers",
    "EmbeddedSettings",
    "ServerStatus",
    "ServerUrls",
    "Timing",
    "platform_password",
]

"""The real nats-server, PostgreSQL and Redis as supervised child processes: what runs when no URL is configured."""

from iotplatform.adapters.embedded.directory import DataDirectory
from iotplatform.adapters.embedded.server import ServerStatus, Timing
from iotplatform.adapters.embedded.servers import EmbeddedServers, ServerUrls
from iotplatform.adapters.embedded.settings import EmbeddedSettings

__all__ = ["DataDirectory", "EmbeddedServers", "EmbeddedSettings", "ServerStatus", "ServerUrls", "Timing"]

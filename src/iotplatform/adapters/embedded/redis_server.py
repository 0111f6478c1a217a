"""The embedded Redis: on a unix socket, every write synced before it is answered."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from urllib.parse import quote

from iotplatform.adapters.embedded.directory import DataDirectory, write_private
from iotplatform.adapters.embedded.processes import Mark
from iotplatform.adapters.embedded.programs import find_redis_server
from iotplatform.adapters.embedded.quoting import quoted
from iotplatform.adapters.embedded.server import Command, Health, StopStep


class RedisServer:
    """See `Server`."""

    name = "redis"
    recovers_by_itself = True
    stop_steps: tuple[StopStep, ...] = (StopStep(signal.SIGTERM, 30.0),)

    def __init__(self, directory: DataDirectory) -> None:
        self._directory = directory
        self._config = directory.redis / "redis.conf"
        self._socket = directory.run / "redis.sock"
        self.log = directory.logs / "redis.log"
        self.mark = Mark(("redis-server", "valkey-server"), (directory.redis,), self._config)

    async def prepare(self) -> Command:
        program = await asyncio.to_thread(find_redis_server)
        await asyncio.to_thread(self._configure)
        return Command((str(program), str(self._config)), self._directory.redis, dict(os.environ))

    def _configure(self) -> None:
        # Redis 6.2 replaces its command line by its socket's path; without that it keeps naming the configuration.
        write_private(
            self._config,
            f"""\
# Written at every start of iotplatform: changes made here are lost.
port 0
unixsocket {quoted(self._socket)}
unixsocketperm 700
set-proc-title no
daemonize no
pidfile {quoted(self._directory.run / "redis.pid")}
dir {quoted(self._directory.redis)}
appendonly yes
appendfsync always
save ""
maxmemory-policy noeviction
""",
        )

    @property
    def url(self) -> str:
        return f"unix://{quote(str(self._socket))}"

    async def probe(self) -> Health:
        reader, writer = await asyncio.open_unix_connection(self._socket)
        try:
            writer.write(b"PING\r\n")
            answer = await reader.readline()
        finally:
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()
        if answer.startswith(b"+PONG"):
            return Health.READY
        # -LOADING, or -BUSY in a long script.
        return Health.BUSY if answer.startswith(b"-") else Health.SILENT

    def close(self) -> None:
        pass

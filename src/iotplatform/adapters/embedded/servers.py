"""The embedded servers together."""

from __future__ import annotations

import asyncio
import contextlib

import msgspec

from iotplatform.adapters.embedded.directory import DataDirectory
from iotplatform.adapters.embedded.nats_server import NatsServer
from iotplatform.adapters.embedded.postgres_server import PostgresServer
from iotplatform.adapters.embedded.redis_server import RedisServer
from iotplatform.adapters.embedded.server import ServerStatus, Timing
from iotplatform.adapters.embedded.settings import CalloutUsers, EmbeddedSettings
from iotplatform.adapters.embedded.supervised_server import SupervisedServer


class ServerUrls(msgspec.Struct, frozen=True):
    """Where they are. None: not one of ours."""

    nats: str | None
    nats_monitor: str | None
    postgres: str | None
    redis: str | None
    mqtt: str | None = None
    mqtt_websocket: str | None = None


class EmbeddedServers:
    """`start`, then `run` in a task of the caller's, then `stop`."""

    def __init__(
        self,
        directory: DataDirectory,
        settings: EmbeddedSettings,
        *,
        nats: bool = True,
        postgres: bool = True,
        redis: bool = True,
        timing: Timing | None = None,
        callout: CalloutUsers | None = None,
    ) -> None:
        timing = timing or Timing()
        self._nats = NatsServer(directory, settings, callout)
        self._postgres = PostgresServer(directory)
        self._redis = RedisServer(directory)
        # In the order in which they are named, and stopped in reverse.
        self._supervised = {
            "postgres": SupervisedServer(self._postgres, timing),
            "redis": SupervisedServer(self._redis, timing),
            "nats": SupervisedServer(self._nats, timing),
        }
        wanted = {"postgres": postgres, "redis": redis, "nats": nats}
        self._wanted = [name for name in self._supervised if wanted[name]]

    async def start(self) -> ServerUrls:
        """All at once, since none needs another; returns when every one of them answers.

        What an earlier run left behind is stopped first, also of those that are not wanted now.

        Raises:
            ConfigError: a setting or the machine does not allow it.
            Unavailable: a server did not come up.
        """
        failure: BaseException | None = None
        try:
            async with asyncio.TaskGroup() as group:
                for name, supervised in self._supervised.items():
                    work = supervised.start() if name in self._wanted else supervised.stop_leftovers()
                    group.create_task(work, name=f"embedded.{name}.start")
        except BaseExceptionGroup as failures:
            # The others were only cancelled: the first one says it all.
            failure = failures.exceptions[0]
        except BaseException:
            await self.stop()
            raise
        if failure is not None:
            await self.stop()
            raise failure
        return ServerUrls(
            nats=self._nats.url if "nats" in self._wanted else None,
            nats_monitor=self._nats.monitor_url if "nats" in self._wanted else None,
            postgres=self._postgres.url if "postgres" in self._wanted else None,
            redis=self._redis.url if "redis" in self._wanted else None,
            mqtt=self._nats.mqtt_url if "nats" in self._wanted else None,
            mqtt_websocket=self._nats.websocket_url if "nats" in self._wanted else None,
        )

    async def run(self) -> None:
        """Keep them running, until cancelled."""
        async with asyncio.TaskGroup() as group:
            for name in self._wanted:
                group.create_task(self._supervised[name].supervise(), name=f"embedded.{name}")

    async def stop(self) -> None:
        """In reverse order. Leaves no process behind."""
        # A stack, so that one that fails to stop does not keep the others running.
        async with contextlib.AsyncExitStack() as stack:
            for name in self._wanted:
                stack.push_async_callback(self._supervised[name].stop)

    def status(self) -> tuple[ServerStatus, ...]:
        return tuple(self._supervised[name].status for name in self._wanted)

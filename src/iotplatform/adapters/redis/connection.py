"""The client, its scripts, and one translation of its errors."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import contextmanager
from hashlib import sha1
from typing import Any

from redis.asyncio import BlockingConnectionPool, Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import (
    BusyLoadingError,
    NoScriptError,
    ReadOnlyError,
    RedisError,
    ResponseError,
)
from redis.exceptions import (
    ConnectionError as RedisConnectionError,
)
from redis.exceptions import (
    TimeoutError as RedisTimeoutError,
)

from iotplatform.errors import ConfigError, Unavailable
from iotplatform.observability.instruments import PoolState

Argument = str | bytes | int
Call = tuple["Script", Sequence[str], Sequence[Argument]]


class Script:
    """A Lua script (Redis 6.2) known by its hash."""

    def __init__(self, source: str) -> None:
        self.source = source
        self.sha = sha1(source.encode(), usedforsecurity=False).hexdigest()


class RedisConnection:
    """A pool of connections. Nothing is retried in here: a commit whose outcome is unknown is the caller's affair."""

    def __init__(self, url: str) -> None:
        try:
            pool = BlockingConnectionPool.from_url(
                url,
                max_connections=16,
                timeout=10,
                socket_timeout=10,
                socket_connect_timeout=5,
                retry=Retry(NoBackoff(), 0),
                health_check_interval=0,
            )
        except ValueError as error:
            raise ConfigError(f"redis.url: {error}") from error
        self._redis: Redis = Redis(connection_pool=pool)

    async def close(self) -> None:
        await self._redis.aclose()
        await self._redis.connection_pool.disconnect()

    async def ping(self) -> None:
        with translated():
            await self._redis.ping()

    def pool_state(self) -> PoolState:
        pool: Any = self._redis.connection_pool
        # The driver shows them to nobody.
        used, idle = len(pool._in_use_connections), len(pool._available_connections)  # noqa: SLF001
        return PoolState(used, idle, pool.max_connections)

    async def info(self) -> dict[str, Any]:
        """What the server says of itself."""
        with translated():
            found: Any = await self._redis.info()
            return dict(found)

    async def call(self, script: Script, keys: Sequence[str], arguments: Sequence[Argument]) -> Any:
        result = (await self.call_all([(script, keys, arguments)]))[0]
        if isinstance(result, BaseException):
            raise result
        return result

    async def call_all(self, calls: Sequence[Call]) -> list[Any]:
        """Script calls in one round trip. What fails by itself comes back as an exception in its place.

        Raises:
            Unavailable: Redis is away; any of the calls may have been carried out.
        """
        results: list[Any] = []
        with translated():
            results = await self._run(calls)
            if any(isinstance(result, NoScriptError) for result in results):
                # Redis has been restarted or emptied. A script that is not known has not run, so only those run again.
                missing = [index for index, result in enumerate(results) if isinstance(result, NoScriptError)]
                for source in {calls[index][0].source for index in missing}:
                    await self._redis.script_load(source)
                again = await self._run([calls[index] for index in missing])
                for index, result in zip(missing, again, strict=True):
                    results[index] = result
        for result in results:
            if isinstance(result, (RedisConnectionError, RedisTimeoutError, BusyLoadingError, ReadOnlyError)):
                raise Unavailable("Redis is not reachable", outcome_unknown=True) from result
            if isinstance(result, ResponseError) and str(result).startswith(("OOM", "MISCONF")):
                raise Unavailable(f"Redis can't write: {result}", outcome_unknown=True) from result
        return results

    async def _run(self, calls: Sequence[Call]) -> list[Any]:
        pipeline = self._redis.pipeline(transaction=False)
        for script, keys, arguments in calls:
            pipeline.evalsha(script.sha, len(keys), *keys, *arguments)
        results: list[Any] = await pipeline.execute(raise_on_error=False)
        return results

    async def multi_get(self, requests: Sequence[tuple[str, Sequence[bytes]]]) -> list[list[bytes | None]]:
        """Fields of several hashes in one round trip."""
        with translated():
            pipeline = self._redis.pipeline(transaction=False)
            for key, fields in requests:
                pipeline.hmget(key, list(fields))
            results: list[list[bytes | None]] = await pipeline.execute()
            return results

    async def get_hash(self, key: str) -> dict[bytes, bytes]:
        with translated():
            fields: Any = await self._redis.hgetall(key)
            return dict(fields)

    async def scan_hash(self, key: str, pattern: str | None, count: int) -> AsyncIterator[list[tuple[bytes, bytes]]]:
        """A hash piece by piece: everything that is there all the time, some of it perhaps twice."""
        cursor = 0
        while True:
            with translated():
                answer: Any = await self._redis.hscan(key, cursor, match=pattern, count=count)
            cursor, fields = answer
            yield list(fields.items())
            if cursor == 0:
                return

    async def increment(self, amounts: Sequence[tuple[str, str, int]]) -> None:
        """Add to fields of hashes: (key, field, amount) each."""
        with translated():
            pipeline = self._redis.pipeline(transaction=True)
            for key, field, amount in amounts:
                pipeline.hincrby(key, field, amount)
            await pipeline.execute()

    async def exists(self, key: str) -> bool:
        with translated():
            return bool(await self._redis.exists(key))

    async def scan(self, pattern: str) -> list[bytes]:
        """Every key that matches; the whole key space is gone through, a thousand keys at a time."""
        with translated():
            return [key async for key in self._redis.scan_iter(match=pattern, count=1_000)]

    async def unlink(self, keys: Sequence[bytes]) -> int:
        """Remove keys; their memory is freed in the background."""
        with translated():
            return int(await self._redis.unlink(*keys)) if keys else 0


@contextmanager
def translated() -> Iterator[None]:
    """Driver errors become Unavailable; a mistake in what we send stays what it is."""
    try:
        yield
    except ResponseError:
        raise
    except (RedisError, OSError) as error:
        raise Unavailable("Redis is not reachable", outcome_unknown=True) from error

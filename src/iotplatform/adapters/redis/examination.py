"""Looking at Redis as a doctor would: briefly, and without changing anything."""

from __future__ import annotations

import re
import time
from typing import Any, Final

from redis.asyncio import Redis
from redis.exceptions import AuthenticationError, RedisError, ResponseError

from iotplatform.domain.finding import Finding, ok, problem, skew, warning

WITHIN_S: Final = 3
OLDEST: Final = (6, 2)
NEARLY_FULL: Final = 0.8
# Alarms' states live in it: what it must be set to, and what happens otherwise.
_WANTED: Final = {
    "appendonly": ("yes", "a crash of Redis loses states of alarms"),
    "appendfsync": ("always", "a crash of Redis loses the last states of alarms"),
    "maxmemory-policy": ("noeviction", "Redis drops states of alarms when its memory is full"),
}


async def examine_redis(url: str) -> list[Finding]:
    try:
        client: Any = Redis.from_url(url, socket_timeout=WITHIN_S, socket_connect_timeout=WITHIN_S)
    except ValueError as error:
        return [problem("Redis", f"redis.url: {error}", "correct redis.url")]
    try:
        return await _examine(client)
    except AuthenticationError:
        return [problem("Redis", "it refuses the password of redis.url", "correct redis.url")]
    except ResponseError as error:
        advice = "correct redis.url" if "auth" in str(error).lower() else "look at its log"
        return [problem("Redis", f"it refuses: {error}", advice)]
    except (RedisError, OSError) as error:
        return [
            problem("Redis", f"not reachable: {error}", "start it, or correct redis.url; is a firewall in between?")
        ]
    finally:
        await client.aclose()


async def _examine(client: Any) -> list[Finding]:
    info = await client.info()
    version = str(info.get("redis_version", ""))
    numbers = tuple(int(part) for part in re.findall(r"\d+", version)[:2])
    if numbers < OLDEST:
        found = [problem("Redis", f"version {version} is older than {'.'.join(map(str, OLDEST))}", "update it")]
    else:
        found = [ok("Redis", f"reachable, version {version}")]
    found += await _settings(client)
    most, used = int(info.get("maxmemory", 0)), int(info.get("used_memory", 0))
    if most and used > NEARLY_FULL * most:
        found.append(
            warning("Redis", f"its memory is {used / most:.0%} full", "raise maxmemory: a full one stops analysis")
        )
    if info.get("role") == "slave":
        found.append(problem("Redis", "it is a replica and takes no writes", "connect to the primary"))
    seconds, microseconds = await client.time()
    return [*found, skew("Redis", seconds + microseconds / 1e6, time.time())]


async def _settings(client: Any) -> list[Finding]:
    found = []
    for name, (wanted, otherwise) in _WANTED.items():
        try:
            value = (await client.config_get(name)).get(name)
        except ResponseError:
            return [
                warning("Redis", "it does not show its settings", "see config/redis/redis.conf for what they must be")
            ]
        if value != wanted:
            found.append(warning("Redis", f"{name} is {value}: {otherwise}", f"set {name} {wanted}"))
    return found

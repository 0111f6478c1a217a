"""What Redis says of itself, for those who watch it."""

from __future__ import annotations

import msgspec

from iotplatform.adapters.redis.connection import RedisConnection


class RedisState(msgspec.Struct, frozen=True):
    """`memory_limit` is None where there is none; `append_ok` whether its log could be written when it tried last."""

    memory: int
    memory_limit: int | None
    keys: int
    clients: int
    commands: int
    append_ok: bool


async def look_at_server(redis: RedisConnection) -> RedisState:
    """Raises Unavailable when it does not answer."""
    info = await redis.info()
    keys = [found["keys"] for name, found in info.items() if name.startswith("db") and isinstance(found, dict)]
    return RedisState(
        memory=int(info["used_memory"]),
        memory_limit=int(info.get("maxmemory", 0)) or None,
        keys=sum(keys),
        clients=int(info["connected_clients"]),
        commands=int(info["total_commands_processed"]),
        append_ok=info.get("aof_last_write_status", "ok") == "ok",
    )

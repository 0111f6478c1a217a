"""What analysis remembers, for those who only look: read without the token of a partition, so never written."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import msgspec

from iotplatform.adapters.redis.analysis import key_of
from iotplatform.adapters.redis.connection import RedisConnection
from iotplatform.domain.evaluation import RuleState

# As roles/analysis/states.py packs them; a test holds the two together.
_decoder: Final = msgspec.msgpack.Decoder(dict[str, RuleState])


class AnalysisView:
    def __init__(self, redis: RedisConnection) -> None:
        self._redis = redis

    async def states(
        self, epoch: int, partition: int, device_id: str, sensors: Sequence[str]
    ) -> tuple[int | None, list[dict[str, RuleState]]]:
        """Up to where the partition's stream is evaluated (None: nobody knows), and for each sensor the rules' states.

        Raises:
            Unavailable: Redis is away.
        """
        keys = [f"{device_id}\x00{sensor}".encode() for sensor in sensors]
        asked = [(key_of(epoch, partition, "head"), [b"position"])]
        if keys:
            asked.append((key_of(epoch, partition, "state"), keys))
        head, *states = await self._redis.multi_get(asked)
        position = None if head[0] is None else int(head[0])
        return position, [_decoder.decode(packed) if packed else {} for found in states for packed in found]

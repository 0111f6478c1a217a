"""What analysis remembers, for those who only look: read without the token of a partition, so never written."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import msgspec

from iotplatform.adapters.redis.analysis import partition_key
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
        head, packed = await self._redis.multi_get(
            [(partition_key(epoch, partition, "head"), [b"position"]), (partition_key(epoch, partition, "state"), keys)]
        )
        position = None if head[0] is None else int(head[0])
        return position, [_decoder.decode(state) if state else {} for state in packed]

"""Rebuilding a partition that Redis has lost: from the alarm history and from what the stream still keeps.

Alarm history is complete up to the floor once persistence has written what NOTIFICATIONS holds now, because a position
is acknowledged, and a checkpoint taken, only after its transitions were published.
"""

from __future__ import annotations

import asyncio
import time
from contextlib import aclosing
from typing import Final

import structlog

from iotplatform.adapters.nats.headers import CONTROL
from iotplatform.adapters.nats.kept_stream import KeptStream
from iotplatform.adapters.nats.partitions import Partition
from iotplatform.adapters.nats.reader import Delivery
from iotplatform.adapters.nats.subjects import is_store_only
from iotplatform.adapters.postgres.alarm_episodes import AlarmEpisodes
from iotplatform.adapters.postgres.checkpoints import Checkpoints
from iotplatform.adapters.redis.analysis import AnalysisStore, Hold
from iotplatform.domain.caution import MAX_TRIES
from iotplatform.domain.control import UnreadableControl, decode_control
from iotplatform.domain.identifiers import partition_of
from iotplatform.domain.reading import UnreadableBlock, decode_block
from iotplatform.roles.analysis.blocks import DecodedBlock, DecodedControl
from iotplatform.roles.analysis.restoration import Restoration
from iotplatform.roles.analysis.rules import Rules
from iotplatform.roles.analysis.states import SeriesStates, pack_states
from iotplatform.runtime.backoff import Backoff
from iotplatform.runtime.pace import Pace

log = structlog.get_logger(role="analysis")

# Others go on meanwhile, and have to get their turns.
REBUILDS_AT_ONCE: Final = 2
SAY_AGAIN_S: Final = 10.0


class Rebuilder:
    def __init__(
        self,
        kept: KeptStream,
        checkpoints: Checkpoints,
        episodes: AlarmEpisodes,
        store: AnalysisStore,
        rules: Rules,
    ) -> None:
        self._kept = kept
        self._checkpoints = checkpoints
        self._episodes = episodes
        self._store = store
        self._rules = rules
        self._places = asyncio.Semaphore(REBUILDS_AT_ONCE)

    async def floor(self, partition: Partition) -> int:
        """Up to where the partition was analysed for sure; 0 when it never was.

        The acknowledgements are exact, and lost with the memory of nats-server; the checkpoints are a little behind:
        what is analysed again has the ids it had.
        """
        acknowledged = await self._kept.floor(partition.organization, partition.number, "analysis")
        return max(acknowledged, await self._checkpoints.read(*partition.key))

    async def has_history(self, partition: Partition) -> bool:
        """Whether there may be alarms although nothing was analysed here."""
        return await self._episodes.are_imported(partition.organization.epoch)

    async def rebuild(self, partition: Partition, hold: Hold, floor: int) -> None:
        """Write the states at `floor` and the position.

        Raises:
            Fenced: somebody else has acquired the partition, or Redis was emptied again.
            Unavailable: a server is away; begin again.
            ApiError: the organization is being deleted.
        """
        fields = {"organization": partition.organization.id, "partition": partition.number, "floor": floor}
        log.warning("analysis.rebuilding", **fields)
        await self._wait_for_history()
        async with self._places:
            began = time.monotonic()
            # A block in the stream may be what ended those who have tried before: counts start anew, alarms don't.
            with_replay = hold.tries.holders - 1 < MAX_TRIES
            states = await self._states(partition, floor, with_replay=with_replay)
            pace = Pace()
            packed: dict[bytes, bytes] = {}
            for key, series in states.items():
                packed[key] = pack_states(series)
                await pace.done(1)
            await self._store.restore(hold, packed, floor)
        log.info(
            "analysis.rebuilt",
            **fields,
            series=len(packed),
            replayed=with_replay,
            took_s=round(time.monotonic() - began, 3),
        )

    async def _wait_for_history(self) -> None:
        """Until persistence has written every transition that there is now. That it is away is waited out."""
        wanted = await self._kept.last_notification()
        backoff = Backoff(0.05, 1.0)
        say_at = time.monotonic()
        while (written := await self._episodes.written_up_to()) < wanted:
            if time.monotonic() >= say_at:
                log.warning("analysis.waiting_for_history", written=written, wanted=wanted)
                say_at = time.monotonic() + SAY_AGAIN_S
            await backoff.wait()

    async def _states(self, partition: Partition, floor: int, *, with_replay: bool) -> dict[bytes, SeriesStates]:
        organization, number = partition.organization, partition.number
        if not with_replay:
            return (await self._begin(partition, floor + 1, floor)).states()
        restoration: Restoration | None = None
        pace = Pace()
        since = await self._episodes.trimmed(organization.epoch, number)
        async with aclosing(self._kept.replay(organization, number, since=since, until=floor)) as pieces:
            async for piece in pieces:
                if restoration is None:
                    restoration = await self._begin(partition, piece[0].sequence, floor)
                for delivery in piece:
                    await _replay(restoration, delivery, pace)
        return (restoration or await self._begin(partition, floor + 1, floor)).states()

    async def _begin(self, partition: Partition, first: int, floor: int) -> Restoration:
        organization = partition.organization
        found = await self._episodes.find(organization.epoch, since=first, until=floor)
        ours = [
            episode for episode in found if partition_of(episode.device_id, organization.partitions) == partition.number
        ]
        index = await self._rules.index(organization.epoch)
        return Restoration(organization, index, ours, first, floor)


async def _replay(restoration: Restoration, delivery: Delivery, pace: Pace) -> None:
    if is_store_only(delivery.subject):
        return
    try:
        if CONTROL in delivery.headers:
            restoration.obey(DecodedControl(delivery.sequence, 0, decode_control(delivery.data)))
            return
        readings = decode_block(delivery.data)
    except (UnreadableBlock, UnreadableControl):
        return  # it was told when it was analysed
    block = DecodedBlock(delivery.sequence, 0, readings, delivery.stored_at)
    for first in range(0, len(readings), pace.steps):
        restoration.feed(block, first, first + pace.steps)
        await pace.done(min(pace.steps, len(readings) - first))

"""One block alone: written down before it is taken up, and given up after it has failed too often."""

from __future__ import annotations

import asyncio

import structlog

from iotplatform.adapters.nats.dead_letters import DeadLetters
from iotplatform.adapters.nats.headers import BlockHeaders
from iotplatform.adapters.nats.partitions import Partition
from iotplatform.adapters.nats.reader import Delivery, Reader
from iotplatform.adapters.redis.analysis import AnalysisStore
from iotplatform.domain.caution import MAX_TRIES, given_up_detail
from iotplatform.domain.dead_letter import DeadLetter, encode_payload
from iotplatform.roles.analysis.holding import Held
from iotplatform.roles.analysis.work import Work, Workbench

log = structlog.get_logger(role="analysis")


class CarefulWork:
    """`one_suspect` is shared by all roles of the process: when it ends, one block alone is to blame."""

    def __init__(
        self, store: AnalysisStore, bench: Workbench, dead_letters: DeadLetters, one_suspect: asyncio.Lock
    ) -> None:
        self._store = store
        self._bench = bench
        self._dead_letters = dead_letters
        self._one_suspect = one_suspect

    async def handle(self, reader: Reader, partition: Partition, held: Held, delivery: Delivery) -> Work:
        """Evaluate and commit a block, or give it up; the work is committed then.

        While it is under way `held.suspect` names it; whoever catches an outage has to spare it.

        Raises:
            Fenced: somebody else has acquired the partition.
            Unavailable: a server is away.
            Exception: what handling it raised, and is to be counted.
        """
        async with self._one_suspect:
            tries = await self._store.suspect(held.hold, delivery.sequence)
            is_given_up = tries >= MAX_TRIES
            if is_given_up:
                await self._give_up(partition, delivery, tries)
                part = await self._bench.begin(reader, partition, held, delivery)
            else:
                held.suspect = delivery.sequence
                part = await self._bench.prepare(reader, partition, held, [delivery])
                await self._bench.load_states([part])
                await self._bench.evaluate(part)
            failure = (await self._bench.commit([part]))[0]
            if failure is not None:
                raise failure
            held.suspect = 0
            if is_given_up:
                headers = BlockHeaders.decode(delivery.headers)
                self._bench.count_unused(partition, headers.count if headers else 0)
                await self._bench.keep_counts()
        return part

    async def _give_up(self, partition: Partition, delivery: Delivery, tries: int) -> None:
        """The letter is stored before the position moves; one put again has the same id."""
        organization = partition.organization
        headers = BlockHeaders.decode(delivery.headers)
        count = headers.count if headers else 0
        letter = DeadLetter(
            id=f"analysis-{partition.number}-{delivery.sequence}",
            role="analysis",
            reason="unevaluable",
            detail=given_up_detail(tries),
            device_id=None,
            received_at=delivery.stored_at,
            readings=count,
            payload=encode_payload(delivery.data),
            encoding="base64",
        )
        await self._dead_letters.put(organization.id, organization.epoch, "analysis", letter)
        log.warning("analysis.dead_lettered", organization=organization.id, letter=letter.id, detail=letter.detail)

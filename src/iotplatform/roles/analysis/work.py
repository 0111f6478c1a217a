"""What a batch does for each of its partitions: decode, load states, evaluate, commit."""

from __future__ import annotations

from collections.abc import Collection, Sequence

import msgspec
import structlog

from iotplatform.adapters.nats.headers import BlockHeaders
from iotplatform.adapters.nats.partitions import Partition
from iotplatform.adapters.nats.reader import Delivery, Reader
from iotplatform.adapters.nats.subjects import is_store_only
from iotplatform.adapters.postgres.directory import Directory
from iotplatform.adapters.redis.analysis import AnalysisStore, Commit
from iotplatform.adapters.redis.counters import Counters
from iotplatform.domain.alarm import encode_transition
from iotplatform.domain.reading import UnreadableBlock, decode_block
from iotplatform.errors import Unavailable
from iotplatform.observability.metrics import Metrics
from iotplatform.roles.analysis.evaluator import (
    DecodedBlock,
    Evaluation,
    Outcome,
    SeriesStates,
    evaluate_in_slices,
    unpack_states,
    wanted_series,
)
from iotplatform.roles.analysis.holding import Held, Holdings
from iotplatform.roles.analysis.report import report
from iotplatform.roles.analysis.rule_index import RuleIndex
from iotplatform.runtime.pace import Pace

log = structlog.get_logger(role="analysis")


class Work(msgspec.Struct):
    """One partition's share of a batch. `wanted` are the series that its rules look at; `states` holds these too."""

    reader: Reader
    partition: Partition
    held: Held
    last: Delivery
    index: RuleIndex
    blocks: list[DecodedBlock] = msgspec.field(default_factory=list)
    wanted: set[bytes] = msgspec.field(default_factory=set)
    states: dict[bytes, SeriesStates] = msgspec.field(default_factory=dict)
    outcome: Outcome = msgspec.field(default_factory=Outcome)
    encoded: list[bytes] = msgspec.field(default_factory=list)


class Workbench:
    def __init__(
        self, store: AnalysisStore, directory: Directory, counters: Counters, metrics: Metrics, holdings: Holdings
    ) -> None:
        self._store = store
        self._directory = directory
        self._counters = counters
        self._metrics = metrics
        self._holdings = holdings
        self._indexes: dict[int, RuleIndex] = {}
        self._pace = Pace()

    def forget(self, epochs: Collection[int]) -> None:
        """All but these epochs."""
        for epoch in self._indexes.keys() - set(epochs):
            del self._indexes[epoch]

    async def begin(self, reader: Reader, partition: Partition, held: Held, last: Delivery) -> Work:
        """Work that moves the position to `last` and changes nothing else."""
        return Work(reader, partition, held, last, await self._index(partition.organization.epoch))

    async def prepare(self, reader: Reader, partition: Partition, held: Held, deliveries: Sequence[Delivery]) -> Work:
        """Work with decoded blocks. Raises whatever decoding raises beside UnreadableBlock."""
        part = await self.begin(reader, partition, held, deliveries[-1])
        for delivery in deliveries:
            if is_store_only(delivery.subject):
                continue
            block = self._decode(partition, delivery)
            if block is not None:
                part.blocks.append(block)
                part.wanted |= wanted_series([block], part.index)
                await self._pace.done(len(block.readings))
        return part

    def count_unused(self, partition: Partition, readings: int) -> None:
        """Readings that analysis could not use; persistence may well store them."""
        self._metrics.readings_unused.add(readings)
        self._counters.add(partition.organization.epoch, "unused", readings)

    async def load_states(self, work: Sequence[Work]) -> None:
        self._holdings.bound_cache()
        for part in work:
            part.states = part.held.states
        missing = [(part, list(part.wanted - part.states.keys())) for part in work]
        missing = [(part, keys) for part, keys in missing if keys]
        if not missing:
            return
        loaded = await self._store.load([(part.held.hold, keys) for part, keys in missing])
        for (part, keys), packed in zip(missing, loaded, strict=True):
            part.states.update(zip(keys, map(unpack_states, packed), strict=True))
            self._holdings.cached(len(keys))
            await self._pace.done(len(keys))

    async def evaluate(self, part: Work) -> None:
        evaluation = Evaluation(part.partition.organization, part.index, part.states)
        part.outcome = await evaluate_in_slices(evaluation, part.blocks, self._pace)
        for transition in part.outcome.transitions:
            part.encoded.append(encode_transition(transition))
            await self._pace.done(1)

    async def commit(self, work: Sequence[Work]) -> list[BaseException | None]:
        """All partitions together; for each None, or why it is not committed."""
        verdicts = await self._store.commit(
            [
                Commit(part.held.hold, part.held.position, part.last.sequence, part.outcome.states, part.encoded)
                for part in work
            ]
        )
        for part, failure in zip(work, verdicts, strict=True):
            if failure is None:
                part.held.position = part.last.sequence
                self._metrics.commits.add(1, "analysis")
                report(self._metrics, part.partition.organization.id, part.last.sequence, part.outcome)
        return verdicts

    async def keep_counts(self) -> None:
        """At once, since the process may end soon; what can't be kept now is kept later."""
        try:
            await self._counters.flush()
        except Unavailable as error:
            log.debug("counters.waiting", detail=error.detail)

    def _decode(self, partition: Partition, delivery: Delivery) -> DecodedBlock | None:
        headers = BlockHeaders.decode(delivery.headers)
        try:
            readings = decode_block(delivery.data)
        except UnreadableBlock as error:
            # Persistence writes the letter: a block is accepted once, so it is dead-lettered once.
            self.count_unused(partition, headers.count if headers else 0)
            log.warning(
                "analysis.unreadable",
                organization=partition.organization.id,
                sequence=delivery.sequence,
                detail=str(error),
            )
            return None
        return DecodedBlock(delivery.sequence, headers.arrived_at if headers else delivery.stored_at, readings)

    async def _index(self, epoch: int) -> RuleIndex:
        rules = await self._directory.rules(epoch)
        index = self._indexes.get(epoch)
        if index is None or index.rules is not rules:
            index = self._indexes[epoch] = RuleIndex(rules)
        return index

"""The analysis role: take what waits, evaluate, commit, publish the transitions, acknowledge."""

from __future__ import annotations

import asyncio
from typing import Final

import msgspec
import structlog

from iotplatform.adapters.nats.connection import Connection
from iotplatform.adapters.nats.headers import BlockHeaders
from iotplatform.adapters.nats.partitions import Partition, PartitionKey, PartitionReaders
from iotplatform.adapters.nats.publisher import Publisher
from iotplatform.adapters.nats.reader import Delivery, Reader
from iotplatform.adapters.nats.readers import Batch, Readers
from iotplatform.adapters.postgres.directory import Directory
from iotplatform.adapters.redis.analysis import AnalysisStore, Commit, Hold
from iotplatform.adapters.redis.counters import Counters
from iotplatform.domain.alarm import AlarmRaised, Transition, encode_transition
from iotplatform.domain.reading import UnreadableBlock, decode_block
from iotplatform.errors import Unavailable
from iotplatform.observability.metrics import Metrics
from iotplatform.roles.analysis.evaluator import (
    Breach,
    DecodedBlock,
    Outcome,
    SeriesStates,
    evaluate_blocks,
    unpack_states,
    wanted_series,
)
from iotplatform.roles.analysis.rule_index import RuleIndex
from iotplatform.roles.analysis.transitions import publish_transitions
from iotplatform.runtime.membership import Membership
from iotplatform.runtime.tasks import Tasks

log = structlog.get_logger(role="analysis")

MAX_CACHED_SERIES: Final = 300_000
BREACHES_IN_A_LINE: Final = 5
RETRY_AFTER_S: Final = 1.0
HALTED_FOR_S: Final = 5.0


class Held(msgspec.Struct):
    """A partition in our hands; `states` caches what Redis has, and is right as long as nobody else writes."""

    hold: Hold
    position: int
    states: dict[bytes, SeriesStates] = msgspec.field(default_factory=dict)


class Work(msgspec.Struct):
    """One partition's share of a batch."""

    reader: Reader
    partition: Partition
    held: Held
    index: RuleIndex
    blocks: list[DecodedBlock]
    last: Delivery
    outcome: Outcome = msgspec.field(default_factory=Outcome)
    encoded: list[bytes] = msgspec.field(default_factory=list)


class AnalysisRole:
    name = "analysis"

    def __init__(
        self,
        connection: Connection,
        publisher: Publisher,
        store: AnalysisStore,
        counters: Counters,
        directory: Directory,
        metrics: Metrics,
        membership: Membership,
    ) -> None:
        self.readers = Readers(self.name, connection, metrics)
        self._partitions = PartitionReaders(self.readers, membership, self._acquire, self._let_go)
        self._membership = membership
        self._publisher = publisher
        self._store = store
        self._counters = counters
        self._directory = directory
        self._metrics = metrics
        self._held: dict[PartitionKey, Held] = {}
        self._indexes: dict[int, RuleIndex] = {}
        self._cached_series = 0
        self._tasks = Tasks(self.name)

    async def start(self) -> None:
        await self.readers.start()
        await self._membership.join()
        self._tasks.start(self._membership.run(), "membership")
        self._directory.on_organizations(self._follow)
        self._follow()
        self._tasks.start(self._run(), "evaluate")

    async def wait(self) -> None:
        await asyncio.gather(self._tasks.wait(), self.readers.wait(), self._partitions.wait())

    async def stop(self) -> None:
        await self._tasks.stop()
        await self._partitions.stop()
        await self._membership.leave()
        await self.readers.stop()

    @property
    def partitions(self) -> PartitionReaders:
        return self._partitions

    def _follow(self) -> None:
        organizations = self._directory.organizations()
        self._partitions.follow(organizations)
        epochs = {organization.epoch for organization in organizations}
        for key in [key for key in self._held if key[0] not in epochs]:
            del self._held[key]
        for epoch in self._indexes.keys() - epochs:
            del self._indexes[epoch]

    async def _acquire(self, partition: Partition) -> int:
        """Take hold of a partition, and publish what its last holder left in the outbox."""
        hold = await self._store.acquire(partition.organization.epoch, partition.number)
        if hold.outbox:
            await publish_transitions(self._publisher, hold.outbox)
            await self._store.clear_outbox([hold])
        self._held[partition.key] = Held(hold, hold.position)
        return hold.position

    async def _let_go(self, partition: Partition) -> None:
        held = self._held.pop(partition.key, None)
        if held is not None:
            self._cached_series -= len(held.states)

    async def _run(self) -> None:
        while True:
            batch = await self.readers.take()
            try:
                await self._handle(batch)
            except Unavailable as error:
                log.warning("analysis.waiting", detail=error.detail)
                for reader in batch:
                    self.readers.reset(reader, "unavailable", after_s=RETRY_AFTER_S)
            finally:
                await self.readers.release(batch)

    async def _handle(self, batch: Batch) -> None:
        work = [
            prepared for reader, deliveries in batch.items() if (prepared := await self._prepare(reader, deliveries))
        ]
        await self._load_states(work)
        work = [part for part in work if self._evaluate(part)]
        if work:
            await self._publish(await self._commit(work))

    async def _prepare(self, reader: Reader, deliveries: list[Delivery]) -> Work | None:
        partition = self._partitions.of(reader)
        held = self._held.get(partition.key) if partition else None
        if partition is None or held is None:
            return None
        fresh = [delivery for delivery in deliveries if delivery.sequence > held.position]
        if not fresh:
            return None
        index = await self._index(partition.organization.epoch)
        blocks = [block for delivery in fresh if (block := self._decode(partition, delivery))]
        return Work(reader, partition, held, index, blocks, fresh[-1])

    def _decode(self, partition: Partition, delivery: Delivery) -> DecodedBlock | None:
        headers = BlockHeaders.decode(delivery.headers)
        try:
            readings = decode_block(delivery.data)
        except UnreadableBlock as error:
            # Persistence writes the letter: a block is accepted once, so it is dead-lettered once.
            unused = headers.count if headers else 0
            self._metrics.readings_unused.add(unused)
            self._counters.add(partition.organization.epoch, "unused", unused)
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

    async def _load_states(self, work: list[Work]) -> None:
        if self._cached_series > MAX_CACHED_SERIES:
            for held in self._held.values():
                held.states.clear()
            self._cached_series = 0
        missing = [(part.held, list(wanted_series(part.blocks, part.index) - part.held.states.keys())) for part in work]
        missing = [(held, keys) for held, keys in missing if keys]
        if not missing:
            return
        loaded = await self._store.load([(held.hold, keys) for held, keys in missing])
        for (held, keys), packed in zip(missing, loaded, strict=True):
            held.states.update(zip(keys, map(unpack_states, packed), strict=True))
            self._cached_series += len(keys)

    def _evaluate(self, part: Work) -> bool:
        try:
            part.outcome = evaluate_blocks(part.partition.organization, part.blocks, part.index, part.held.states)
        except Exception:  # a fault of ours: it halts this partition and nobody else's
            log.exception("analysis.failed", organization=part.partition.organization.id)
            self.readers.reset(part.reader, "evaluation failed", after_s=HALTED_FOR_S)
            return False
        part.encoded = [encode_transition(transition) for transition in part.outcome.transitions]
        return True

    async def _commit(self, work: list[Work]) -> list[Work]:
        """All partitions together; returns those that are committed."""
        verdicts = await self._store.commit(
            [
                Commit(part.held.hold, part.held.position, part.last.sequence, part.outcome.states, part.encoded)
                for part in work
            ]
        )
        committed: list[Work] = []
        for part, fenced in zip(work, verdicts, strict=True):
            if fenced is not None:
                log.warning("analysis.fenced", organization=part.partition.organization.id, detail=str(fenced))
                self._partitions.fenced(part.reader)
                continue
            part.held.position = part.last.sequence
            self._metrics.commits.add(1, self.name)
            self._report(part)
            committed.append(part)
        return committed

    async def _publish(self, committed: list[Work]) -> None:
        with_transitions = [part for part in committed if part.encoded]
        if with_transitions:
            results = await asyncio.gather(
                *(publish_transitions(self._publisher, part.encoded) for part in with_transitions),
                return_exceptions=True,
            )
            published: list[Work] = []
            for part, result in zip(with_transitions, results, strict=True):
                if result is None:
                    published.append(part)
                elif isinstance(result, Unavailable):
                    # They stay in the outbox, and whoever acquires the partition next publishes them first.
                    self.readers.reset(part.reader, "transitions not published", after_s=RETRY_AFTER_S)
                    committed.remove(part)
                else:
                    raise result
            if published:
                await self._store.clear_outbox([part.held.hold for part in published])
        for part in committed:
            await self.readers.acknowledge(part.reader, part.last)

    def _report(self, part: Work) -> None:
        organization = part.partition.organization.id
        breaches = part.outcome.breaches
        if breaches:
            self._metrics.breaches.add(len(breaches))
            log.info(
                "analysis.breach",
                organization=organization,
                breaches=len(breaches),
                position=part.last.sequence,
                examples=[_example(breach) for breach in breaches[:BREACHES_IN_A_LINE]],
            )
        for transition in part.outcome.transitions:
            self._report_transition(organization, transition)

    def _report_transition(self, organization: str, transition: Transition) -> None:
        fields = {
            "organization": organization,
            "alarm": transition.alarm_id,
            "rule": transition.rule_id,
            "device": transition.device_id,
            "sensor": transition.sensor,
            "severity": transition.severity,
        }
        if isinstance(transition, AlarmRaised):
            self._metrics.alarms_raised.add(1, transition.severity)
            log.info("analysis.alarm_raised", **fields, value=transition.trigger_value, position=transition.position)
        else:
            self._metrics.alarms_cleared.add(1, transition.severity)
            log.info("analysis.alarm_cleared", **fields, value=transition.value, position=transition.position)


def _example(breach: Breach) -> str:
    return f"{breach.device_id}/{breach.sensor}={breach.value:g} ({breach.streak} in a row)"

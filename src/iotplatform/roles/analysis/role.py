"""The analysis role: take what waits, evaluate, commit, publish the transitions, acknowledge.

A batch goes through these steps together. A partition with transitions leaves it after the commit, and stays out of
the next ones until they are published; so does one whose blocks are taken up alone. The others don't wait for it.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

import msgspec
import structlog

from iotplatform.adapters.nats.connection import Connection
from iotplatform.adapters.nats.dead_letters import DeadLetters
from iotplatform.adapters.nats.kept_stream import KeptStream
from iotplatform.adapters.nats.outstanding import OutstandingTransitions
from iotplatform.adapters.nats.partitions import Partition, PartitionReaders
from iotplatform.adapters.nats.publisher import Publisher
from iotplatform.adapters.nats.reader import Delivery, Reader
from iotplatform.adapters.nats.readers import Batch, Readers
from iotplatform.adapters.postgres.alarm_episodes import AlarmEpisodes
from iotplatform.adapters.postgres.checkpoints import Checkpoints
from iotplatform.adapters.postgres.directory import Directory
from iotplatform.adapters.postgres.ingestion import IngestionRoll
from iotplatform.adapters.redis.analysis import AnalysisStore, Fenced
from iotplatform.adapters.redis.counters import Counters
from iotplatform.errors import Unavailable
from iotplatform.observability.metrics import Metrics
from iotplatform.roles.analysis.careful import CarefulWork
from iotplatform.roles.analysis.checkpointing import Checkpointer
from iotplatform.roles.analysis.holding import Held, Holdings
from iotplatform.roles.analysis.publishing import TransitionPublisher
from iotplatform.roles.analysis.rebuild import Rebuilder
from iotplatform.roles.analysis.rules import Rules
from iotplatform.roles.analysis.tending import Tending
from iotplatform.roles.analysis.upkeep import Upkeep
from iotplatform.roles.analysis.work import Work, Workbench
from iotplatform.runtime.membership import Membership
from iotplatform.runtime.tasks import Tasks

log = structlog.get_logger(role="analysis")

RETRY_AFTER_S: Final = 1.0
HALTED_FOR_S: Final = 2.0


class AnalysisParts(msgspec.Struct, frozen=True):
    """What the role stands on."""

    connection: Connection
    publisher: Publisher
    store: AnalysisStore
    counters: Counters
    directory: Directory
    dead_letters: DeadLetters
    episodes: AlarmEpisodes
    ingestion: IngestionRoll
    checkpoints: Checkpoints
    one_suspect: asyncio.Lock


class AnalysisRole:
    name = "analysis"

    def __init__(self, parts: AnalysisParts, metrics: Metrics, membership: Membership) -> None:
        self.readers = Readers(self.name, parts.connection, metrics)
        self._store = parts.store
        self._directory = parts.directory
        self._rules = Rules(parts.directory)
        self._tasks = Tasks(self.name)
        self._publisher = TransitionPublisher(parts.publisher, OutstandingTransitions(parts.connection))
        kept = KeptStream(parts.connection)
        rebuilder = Rebuilder(kept, parts.checkpoints, parts.episodes, parts.store, self._rules)
        self._checkpointer = Checkpointer(parts.checkpoints)
        self._holdings = Holdings(parts.store, rebuilder, self._publisher, self._tasks)
        self.partitions = PartitionReaders(self.readers, membership, self._holdings.acquire, self._let_go)
        self._membership = membership
        self._bench = Workbench(parts.store, self._rules, parts.counters, metrics, self._holdings)
        upkeep = Upkeep(parts.store, self._rules, parts.episodes, parts.ingestion, KeptStream(parts.connection))
        self._tending = Tending(upkeep, self._bench, self._rules, parts.episodes, self._publisher, self.readers)
        self._careful = CarefulWork(parts.store, self._bench, parts.dead_letters, parts.one_suspect)

    async def start(self) -> None:
        await self.readers.start()
        await self._tending.look_for_presence()
        await self._membership.join()
        self._tasks.start(self._membership.run(), "membership")
        self._directory.on_organizations(self._follow)
        self._follow()
        self._tasks.start(self._checkpointer.run(), "checkpoints")
        self._tasks.start(self._run(), "evaluate")
        self._tasks.start(self._tending.run(self._find, self._guarded, self._tasks), "tend")

    async def wait(self) -> None:
        await asyncio.gather(self._tasks.wait(), self.readers.wait(), self.partitions.wait())

    async def stop(self) -> None:
        await self._tasks.stop()
        await self.partitions.stop()
        await self._membership.leave()
        await self.readers.stop()
        await self._holdings.let_go()
        await self._checkpointer.stop()

    async def _let_go(self, partition: Partition) -> None:
        """Its next holder suspects nothing."""
        await self._holdings.let_go([partition.key])

    def _follow(self) -> None:
        organizations = self._directory.organizations()
        self.partitions.follow(organizations)
        epochs = {organization.epoch for organization in organizations}
        self._holdings.forget(epochs)
        self._rules.forget(epochs)

    def _find(self, reader: Reader) -> tuple[Partition, Held] | None:
        partition = self.partitions.of(reader)
        held = self._holdings.of(partition) if partition else None
        return (partition, held) if partition is not None and held is not None else None

    async def _run(self) -> None:
        while True:
            batch = await self.readers.take()
            try:
                await self._handle(batch)
            except Unavailable as error:
                log.warning("analysis.waiting", detail=error.detail)
                for reader in batch:
                    self.readers.reset(reader, "unavailable", after_s=RETRY_AFTER_S)
            except Exception:  # of no partition in particular: each counts it, and in the end each is taken up alone
                log.exception("analysis.batch_failed", partitions=len(batch))
                for reader in batch:
                    await self._halt(reader)
            finally:
                await self.readers.release(batch)

    async def _handle(self, batch: Batch) -> None:
        """What leaves the batch for a task of its own is no longer in it afterwards."""
        prepared = await self._prepare(batch)
        await self._bench.load_states(prepared)
        work: list[Work] = []
        for part in prepared:
            async with self._guarded(part.reader, part.partition):
                await self._bench.evaluate(part)
                work.append(part)
        if not work:
            return
        for part, failure in zip(work, await self._bench.commit(work), strict=True):
            async with self._guarded(part.reader, part.partition):
                if failure is not None:
                    raise failure
                if part.encoded:
                    del batch[part.reader]
                    self._tasks.spawn(self._publish_alone(part), f"publish.{part.reader.name}")
                else:
                    await self._acknowledge(part)

    async def _prepare(self, batch: Batch) -> list[Work]:
        work: list[Work] = []
        for reader, deliveries in list(batch.items()):
            partition = self.partitions.of(reader)
            held = self._holdings.of(partition) if partition else None
            if partition is None or held is None:
                continue
            fresh = [delivery for delivery in deliveries if delivery.sequence > held.position]
            if not fresh:
                continue
            if held.careful_blocks:
                del batch[reader]
                self._tasks.spawn(self._handle_alone(reader, partition, held, fresh), f"careful.{reader.name}")
                continue
            async with self._guarded(reader, partition):
                work.append(await self._bench.prepare(reader, partition, held, fresh))
        return work

    async def _publish_alone(self, part: Work) -> None:
        try:
            async with self._guarded(part.reader, part.partition):
                await self._publish(part)
        finally:
            await self.readers.release({part.reader: []})

    async def _publish(self, part: Work) -> None:
        """Until then the transitions stay in the outbox, and whoever acquires the partition publishes them first."""
        if part.encoded:
            await self._publisher.publish(part.encoded, wait=True)
            await self._store.clear_outbox([part.held.hold])
        await self._acknowledge(part)

    async def _acknowledge(self, part: Work) -> None:
        self._checkpointer.moved(part.partition.key, part.last.sequence)
        await self.readers.acknowledge(part.reader, part.last)

    async def _handle_alone(self, reader: Reader, partition: Partition, held: Held, fresh: list[Delivery]) -> None:
        """Block by block, see `domain.caution`."""
        try:
            async with self._guarded(reader, partition):
                for delivery in fresh:
                    try:
                        part = await self._careful.handle(reader, partition, held, delivery)
                    except Unavailable:
                        await self._holdings.spare(held)
                        raise
                    held.careful_blocks = max(0, held.careful_blocks - 1)
                    await self._publish(part)
        finally:
            await self.readers.release({reader: []})

    @asynccontextmanager
    async def _guarded(self, reader: Reader, partition: Partition) -> AsyncIterator[None]:
        """What fails in here sends one partition back to its stored position.

        An outage is waited out; anything unexpected is counted, and halts the partition for a while.
        """
        fields = {"organization": partition.organization.id, "partition": partition.number}
        try:
            yield
        except Unavailable as error:
            log.warning("analysis.waiting", **fields, detail=error.detail)
            self.readers.reset(reader, "unavailable", after_s=RETRY_AFTER_S)
        except Fenced as error:
            log.warning("analysis.fenced", **fields, detail=str(error))
            self.partitions.fenced(reader)
        except Exception:
            log.exception("analysis.failed", **fields)
            await self._halt(reader)

    async def _halt(self, reader: Reader) -> None:
        partition = self.partitions.of(reader)
        held = self._holdings.of(partition) if partition else None
        if held is not None:
            held.suspect = 0
            await self._holdings.count_failure(held.hold)
        self.readers.reset(reader, "failed", after_s=HALTED_FOR_S)

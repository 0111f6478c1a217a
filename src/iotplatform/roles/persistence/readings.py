"""Storing readings: take what waits, keep the latest values, commit, acknowledge."""

from __future__ import annotations

from typing import Final

import structlog

from iotplatform.adapters.nats.connection import Connection
from iotplatform.adapters.nats.dead_letters import DeadLetters
from iotplatform.adapters.nats.partitions import Partition, PartitionKey, PartitionReaders
from iotplatform.adapters.nats.reader import Delivery, Reader
from iotplatform.adapters.nats.readers import Readers
from iotplatform.adapters.postgres.directory import Directory
from iotplatform.adapters.postgres.persistence import PositionMoved, ReadingStore, UnstorableData
from iotplatform.adapters.redis.latest import LatestValues
from iotplatform.domain.reading import Reading
from iotplatform.errors import Unavailable
from iotplatform.observability.metrics import Metrics
from iotplatform.roles.persistence.blocks import Newest, Prepared, newest_of, prepare, reading_letter
from iotplatform.runtime.backoff import Backoff
from iotplatform.runtime.clock import now_us
from iotplatform.runtime.membership import Membership
from iotplatform.runtime.tasks import Tasks

log = structlog.get_logger(role="persistence")

# Two connections commit side by side: while one waits for the disk the other prepares.
WORKERS: Final = 2

Part = tuple[Reader, Partition, Delivery, Prepared]


class ReadingWriter:
    def __init__(
        self,
        connection: Connection,
        dead_letters: DeadLetters,
        store: ReadingStore,
        latest: LatestValues,
        directory: Directory,
        metrics: Metrics,
        membership: Membership,
    ) -> None:
        self.readers = Readers("persistence", connection, metrics)
        self._partitions = PartitionReaders(self.readers, membership, self._acquire, self._let_go)
        self._dead_letters = dead_letters
        self._store = store
        self._latest = latest
        self._directory = directory
        self._metrics = metrics
        self._positions: dict[PartitionKey, int] = {}
        self._tasks = Tasks("persistence.readings")

    async def start(self) -> None:
        await self.readers.start()
        self._directory.on_organizations(self._follow)
        self._follow()
        for number in range(WORKERS):
            self._tasks.start(self._run(), f"writer.{number}")
        self._tasks.start(self.readers.wait(), "readers")
        self._tasks.start(self._partitions.wait(), "partitions")

    async def wait(self) -> None:
        await self._tasks.wait()

    async def stop(self) -> None:
        await self._tasks.stop()
        await self._partitions.stop()
        await self.readers.stop()

    @property
    def partitions(self) -> PartitionReaders:
        return self._partitions

    def _follow(self) -> None:
        organizations = self._directory.organizations()
        self._partitions.follow(organizations)
        epochs = {organization.epoch for organization in organizations}
        for key in [key for key in self._positions if key[0] not in epochs]:
            del self._positions[key]

    async def _acquire(self, partition: Partition) -> int:
        epoch = partition.organization.epoch
        await self.fill_latest(epoch)
        position = await self._store.position(epoch, partition.number)
        if position is None:
            raise Unavailable(
                f"organization {partition.organization.id} has no partition {partition.number} (any more)"
            )
        self._positions[partition.key] = position
        return position

    async def _let_go(self, partition: Partition) -> None:
        self._positions.pop(partition.key, None)

    async def fill_latest(self, epoch: int) -> None:
        """Make Redis complete again after it was emptied; what is written meanwhile keeps what is newer."""
        if not await self._latest.is_complete(epoch):
            newest = await self._store.newest(epoch)
            if newest:
                await self._latest.keep({epoch: newest})
            await self._latest.mark_complete(epoch)

    async def _run(self) -> None:
        backoff = Backoff(0.1, 5.0)
        while True:
            batch = await self.readers.take()
            try:
                parts = [part for reader, found in batch.items() if (part := self._prepare(reader, found))]
                while parts:
                    try:
                        parts = await self._write(parts)
                        backoff.reset()
                    except Unavailable as error:
                        log.warning("persistence.waiting", detail=error.detail)
                        await backoff.wait()
            finally:
                await self.readers.release(batch)

    def _prepare(self, reader: Reader, deliveries: list[Delivery]) -> Part | None:
        partition = self._partitions.of(reader)
        position = self._positions.get(partition.key) if partition else None
        if partition is None or position is None:
            return None
        fresh = [delivery for delivery in deliveries if delivery.sequence > position]
        if not fresh:
            return None
        prepared = prepare(partition.organization.epoch, partition.number, position, fresh)
        return reader, partition, fresh[-1], prepared

    async def _write(self, parts: list[Part]) -> list[Part]:
        """Commit; returns what is left to be tried again.

        Raises:
            Unavailable: a server is away; all of `parts` are to be tried again.
        """
        for _, partition, _, prepared in parts:
            await self._send_letters(partition, prepared)
        await self._keep_latest(parts)
        try:
            await self._store.store([prepared.work for *_, prepared in parts])
        except PositionMoved as error:
            log.warning("persistence.fenced", detail=str(error))
            for reader, partition, _, _ in parts:
                if partition.key in error.partitions:
                    self._partitions.fenced(reader)
            return [part for part in parts if part[1].key not in error.partitions]
        except UnstorableData as error:
            if len(parts) == 1:
                await self._sift(parts[0], str(error))
                return parts
            left: list[Part] = []
            for part in parts:
                left += await self._write([part])
            return left
        for part in parts:
            await self._committed(part)
        return []

    async def _send_letters(self, partition: Partition, prepared: Prepared) -> None:
        """The letters are stored before the position moves; one put again has the same id."""
        organization = partition.organization
        while prepared.letters:
            letter = prepared.letters[0]
            await self._dead_letters.put(organization.id, organization.epoch, "persistence", letter)
            prepared.letters.pop(0)
            log.warning(
                "persistence.dead_lettered", organization=organization.id, letter=letter.id, detail=letter.detail
            )

    async def _keep_latest(self, parts: list[Part]) -> None:
        newest: dict[int, Newest] = {}
        for _, partition, _, prepared in parts:
            newest_of(prepared.work, newest.setdefault(partition.organization.epoch, {}))
        newest = {epoch: entries for epoch, entries in newest.items() if entries}
        if newest:
            await self._latest.keep(newest)

    async def _sift(self, part: Part, detail: str) -> None:
        """Move what PostgreSQL refuses to the letters, found by halving, and leave the rest to be stored."""
        _, partition, _, prepared = part
        work = prepared.work
        suspects = [list(enumerate(work.readings))]
        refused: dict[int, tuple[Reading, int]] = {}
        while suspects:
            some = suspects.pop()
            if await self._store.is_storable([entry for _, entry in some], work.epoch):
                continue
            if len(some) == 1:
                refused[some[0][0]] = some[0][1]
            else:
                suspects += [some[: len(some) // 2], some[len(some) // 2 :]]
        if not refused:
            raise Unavailable(f"the database refuses what it takes piece by piece: {detail}")
        now = now_us()
        for index, (reading, position) in refused.items():
            prepared.letters.append(reading_letter(partition.number, position, index, reading, detail, now))
        work.readings = [entry for index, entry in enumerate(work.readings) if index not in refused]
        work.dead_lettered += len(refused)

    async def _committed(self, part: Part) -> None:
        reader, partition, last, prepared = part
        work = prepared.work
        self._positions[partition.key] = work.after
        await self.readers.acknowledge(reader, last)
        now = now_us()
        for arrived_at, count in prepared.arrivals:
            self._metrics.reading_to_stored.record(max(0.0, (now - arrived_at) / 1e6), count)
        self._metrics.commits.add(1, "persistence")
        self._metrics.readings_stored.add(len(work.readings))
        if work.dead_lettered:
            self._metrics.readings_dead_lettered.add(work.dead_lettered, "persistence")
        log.info(
            "persistence.stored",
            organization=partition.organization.id,
            partition=partition.number,
            position=work.after,
            readings=len(work.readings),
        )

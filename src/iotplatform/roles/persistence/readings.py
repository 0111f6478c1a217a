"""Storing readings: take what waits, keep the latest values, commit, acknowledge."""

from __future__ import annotations

import time
from typing import Final

import msgspec
import structlog

from iotplatform.adapters.nats.connection import Connection
from iotplatform.adapters.nats.dead_letters import DeadLetters
from iotplatform.adapters.nats.partitions import Partition, PartitionKey, PartitionReaders
from iotplatform.adapters.nats.reader import Delivery, Reader
from iotplatform.adapters.nats.readers import Batch, Readers
from iotplatform.adapters.postgres.directory import Directory
from iotplatform.adapters.postgres.lanes import drop_ended
from iotplatform.adapters.postgres.persistence import PositionMoved
from iotplatform.adapters.redis.latest import LatestValues
from iotplatform.domain.gap import LanePlace
from iotplatform.domain.telemetry import TelemetryStore, UnstorableData
from iotplatform.errors import Unavailable
from iotplatform.observability.metrics import Metrics
from iotplatform.roles.persistence.alone import AloneWriter
from iotplatform.roles.persistence.blocks import Part, Prepared, prepare
from iotplatform.roles.persistence.commit_traces import committing
from iotplatform.roles.persistence.latest import LatestKeeper
from iotplatform.roles.persistence.letters import LetterSender
from iotplatform.roles.persistence.settling import Settler
from iotplatform.roles.persistence.stores import BlockStore
from iotplatform.roles.persistence.suspects import Suspects
from iotplatform.runtime.backoff import Backoff
from iotplatform.runtime.clock import now_us
from iotplatform.runtime.membership import Membership
from iotplatform.runtime.tasks import Tasks

log = structlog.get_logger(role="persistence")

# Two connections commit side by side: while one waits for the disk the other prepares.
WORKERS: Final = 2
RETRY_AFTER_S: Final = 1.0
HALTED_FOR_S: Final = 2.0
# Partitions that are settled at a time, each with no more in memory than a reader hands out at once.
MAX_ASIDE: Final = 16
# So many lanes of a partition are kept in memory without a look at which of them have ended.
FEW_LANES: Final = 64


class ReadingParts(msgspec.Struct, frozen=True):
    """What storing readings stands on."""

    connection: Connection
    dead_letters: DeadLetters
    store: BlockStore
    telemetry: TelemetryStore
    latest: LatestValues
    directory: Directory
    suspects: Suspects


class ReadingWriter:
    def __init__(self, parts: ReadingParts, metrics: Metrics, membership: Membership) -> None:
        self.readers = Readers("persistence", parts.connection, metrics)
        self.partitions = PartitionReaders(self.readers, membership, self._acquire, self._let_go)
        self._settler = Settler(parts.store, LetterSender(parts.dead_letters))
        self._aside = 0
        self._store = parts.store
        self.latest = LatestKeeper(parts.latest, parts.telemetry)
        self._directory = parts.directory
        self._suspects = parts.suspects
        self._metrics = metrics
        self._positions: dict[PartitionKey, int] = {}
        self._lanes: dict[PartitionKey, dict[str, LanePlace]] = {}
        self._alone = AloneWriter(parts.suspects, self._settle_once, self._positions, self._lanes)
        self._tasks = Tasks("persistence.readings")

    async def start(self) -> None:
        await self.readers.start()
        self._directory.on_organizations(self._follow)
        self._follow()
        for number in range(WORKERS):
            self._tasks.start(self._run(), f"writer.{number}")
        self._tasks.start(self.readers.wait(), "readers")
        self._tasks.start(self.partitions.wait(), "share")

    async def wait(self) -> None:
        await self._tasks.wait()

    async def stop(self) -> None:
        await self._tasks.stop()
        await self.partitions.stop()
        await self.readers.stop()
        await self._suspects.let_go()

    async def _let_go(self, partition: Partition) -> None:
        """Its next holder suspects nothing."""
        self._positions.pop(partition.key, None)
        self._lanes.pop(partition.key, None)
        await self._suspects.let_go([partition.key])

    def _follow(self) -> None:
        organizations = self._directory.organizations()
        self.partitions.follow(organizations)
        epochs = {organization.epoch for organization in organizations}
        for key in [key for key in self._positions if key[0] not in epochs]:
            del self._positions[key]
            self._lanes.pop(key, None)
        self._suspects.forget(epochs)

    async def _acquire(self, partition: Partition) -> int:
        try:
            return await self._take_hold(partition)
        except Unavailable:
            raise
        except Exception as error:  # a fault of ours: it halts this partition and nobody else's
            log.exception("persistence.not_acquired", **_names(partition))
            raise Unavailable(f"the partition can't be acquired: {error!r}") from error

    async def _take_hold(self, partition: Partition) -> int:
        await self.latest.fill(partition.organization.epoch)
        position = await self._suspects.acquire(partition)
        if position is None:
            raise Unavailable(
                f"organization {partition.organization.id} has no partition {partition.number} (any more)"
            )
        self._lanes[partition.key] = await self._store.lanes(*partition.key)
        self._positions[partition.key] = position
        return position

    async def _run(self) -> None:
        backoff = Backoff(0.1, 5.0)
        while True:
            batch = await self.readers.take()
            try:
                await self._write_all(await self._prepare_all(batch), batch, backoff)
            finally:
                await self.readers.release(batch)

    async def _prepare_all(self, batch: Batch) -> list[Part]:
        """Partitions whose blocks are taken up alone leave the batch for tasks of their own."""
        parts: list[Part] = []
        for reader, deliveries in list(batch.items()):
            partition = self.partitions.of(reader)
            if partition is not None and self._suspects.is_careful(partition.key):
                del batch[reader]
                self._tasks.spawn(self._handle_alone(reader, partition, deliveries), f"careful.{reader.name}")
                continue
            try:
                part = self._prepare(reader, deliveries)
            except Exception:
                log.exception("persistence.failed", reader=reader.name)
                await self._halt(reader)
            else:
                parts += [part] if part else []
        return parts

    async def _write_all(self, parts: list[Part], batch: Batch, backoff: Backoff) -> None:
        """Until everything is committed; an outage is waited out, and what fails by itself halts its own partition."""
        while parts := self._set_aside(parts, batch):
            try:
                parts = await self._write(parts)
                backoff.reset()
            except Unavailable as error:
                log.warning("persistence.waiting", detail=error.detail)
                await backoff.wait()
            except Exception:
                if len(parts) == 1:
                    log.exception("persistence.failed", **_names(parts[0][1]))
                    await self._halt(parts[0][0])
                    return
                log.warning("persistence.split", parts=len(parts), exc_info=True)
                for part in parts:
                    await self._write_all([part], batch, backoff)
                return

    def _set_aside(self, parts: list[Part], batch: Batch) -> list[Part]:
        """The parts that can be committed at once; a reader whose part can't leaves `batch`, to be released later."""
        clean: list[Part] = []
        for part in parts:
            reader, *_, prepared = part
            if prepared.is_clean:
                clean.append(part)
            elif self._aside >= MAX_ASIDE:
                # Its blocks stay in the stream, not in memory.
                self.readers.reset(reader, "too many are set aside", after_s=RETRY_AFTER_S)
            else:
                del batch[reader]
                self._aside += 1
                self._tasks.spawn(self._settle(part), f"settle.{reader.name}")
        return clean

    async def _settle(self, part: Part) -> None:
        """One partition's part, until it is committed or somebody else's."""
        reader = part[0]
        backoff = Backoff(0.1, 5.0)
        left = [part]
        try:
            while left:
                try:
                    left = await self._settle_once(part)
                    backoff.reset()
                except Unavailable as error:
                    log.warning("persistence.waiting", detail=error.detail, reader=reader.name)
                    await backoff.wait()
        except Exception:
            log.exception("persistence.failed", **_names(part[1]))
            await self._halt(reader)
        finally:
            self._aside -= 1
            await self.readers.release({reader: []})

    async def _settle_once(self, part: Part) -> list[Part]:
        """The letters are stored before the position moves; returns what is left to be tried again."""
        await self._settler.settle(part)
        return await self._write([part])

    async def _handle_alone(self, reader: Reader, partition: Partition, deliveries: list[Delivery]) -> None:
        try:
            await self._alone.store(reader, partition, deliveries)
        except PositionMoved as error:
            log.warning("persistence.fenced", detail=str(error))
            self.partitions.fenced(reader)
        except Exception:
            log.exception("persistence.failed", **_names(partition))
            await self._halt(reader)
        finally:
            await self.readers.release({reader: []})

    async def _halt(self, reader: Reader) -> None:
        """For a while, back to the stored position; and it is counted."""
        partition = self.partitions.of(reader)
        if partition is not None:
            await self._suspects.failed(partition.key)
        self.readers.reset(reader, "failed", after_s=HALTED_FOR_S)

    def _prepare(self, reader: Reader, deliveries: list[Delivery]) -> Part | None:
        partition = self.partitions.of(reader)
        position = self._positions.get(partition.key) if partition else None
        if partition is None or position is None:
            return None
        fresh = [delivery for delivery in deliveries if delivery.sequence > position]
        if not fresh:
            return None
        lanes = self._lanes[partition.key]
        prepared = prepare(partition.organization.epoch, partition.number, position, fresh, lanes)
        return reader, partition, fresh[-1], prepared

    async def _write(self, parts: list[Part]) -> list[Part]:
        """Commit; returns what is left to be tried again. What the store refuses then says so.

        Raises:
            Unavailable: a server is away; all of `parts` are to be tried again.
        """
        began = time.monotonic()
        try:
            with committing(self._metrics.tracer, [prepared.traces for *_, prepared in parts]):
                await self.latest.keep([prepared.work for *_, prepared in parts])
                await self._store.store([prepared.work for *_, prepared in parts])
        except PositionMoved as error:
            log.warning("persistence.fenced", detail=str(error))
            for reader, partition, _, _ in parts:
                if partition.key in error.partitions:
                    self.partitions.fenced(reader)
            return [part for part in parts if part[1].key not in error.partitions]
        except UnstorableData as error:
            if len(parts) == 1:
                parts[0][-1].refusal = str(error)
                return parts
            left: list[Part] = []
            for part in parts:
                left += await self._write([part])
            return left
        self._metrics.commit["persistence"].record(time.monotonic() - began)
        for part in parts:
            await self._committed(part)
        return []

    async def _committed(self, part: Part) -> None:
        reader, partition, last, prepared = part
        work = prepared.work
        self._positions[partition.key] = work.after
        self._follow_lanes(partition, last, prepared)
        await self.readers.acknowledge(reader, last)
        now = now_us()
        for arrived_at, count in prepared.arrivals:
            self._metrics.reading_to_stored.record(max(0.0, (now - arrived_at) / 1e6), count)
        self._metrics.commits.add(1, "persistence")
        self._metrics.readings_stored.add(len(work.readings))
        if work.dead_lettered:
            self._metrics.readings_dead_lettered.add(work.dead_lettered, "persistence")
        trace_ids = prepared.traces.finish()
        log.info(
            "persistence.stored",
            organization=partition.organization.id,
            partition=partition.number,
            position=work.after,
            readings=len(work.readings),
            **({"trace_ids": trace_ids} if trace_ids else {}),
        )

    def _follow_lanes(self, partition: Partition, last: Delivery, prepared: Prepared) -> None:
        lanes = self._lanes.setdefault(partition.key, {})
        lanes.update(prepared.places)
        if len(lanes) > FEW_LANES:
            drop_ended(lanes, last.stored_at)
        for gap in prepared.work.gaps:
            log.error(
                "persistence.gap",
                organization=partition.organization.id,
                partition=gap.partition,
                lane=gap.lane,
                first_number=gap.first_number,
                last_number=gap.last_number,
                readings=gap.readings,
            )


def _names(partition: Partition) -> dict[str, str | int]:
    return {"organization": partition.organization.id, "partition": partition.number}

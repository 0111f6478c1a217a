"""From deliveries to what one partition's commit amounts to. No I/O."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import msgspec

from iotplatform.adapters.nats.headers import CONTROL, TRACEPARENT, BlockHeaders
from iotplatform.adapters.nats.partitions import Partition
from iotplatform.adapters.nats.reader import Delivery, Reader
from iotplatform.adapters.postgres.persistence import LaneMark, PartitionWork
from iotplatform.domain.dead_letter import DeadLetter, Reason, encode_payload
from iotplatform.domain.gap import NOTHING_KNOWN, LaneFollower, LanePlace
from iotplatform.domain.reading import Reading, UnreadableBlock, decode_block
from iotplatform.domain.telemetry import Newest
from iotplatform.roles.persistence.commit_traces import CommitTraces


class Prepared(msgspec.Struct):
    """`arrivals` are the blocks' times of arrival with their numbers of readings, for the latency histogram.

    `places` is where the lanes stand once this is committed. `refusal` is what the database said when it did not take
    all the readings.
    """

    work: PartitionWork
    letters: list[DeadLetter]
    arrivals: list[tuple[int, int]]
    places: dict[str, LanePlace]
    refusal: str | None = None
    traces: CommitTraces = msgspec.field(default_factory=CommitTraces)

    @property
    def is_clean(self) -> bool:
        """Nothing has to be done before it can be committed together with others."""
        return not self.letters and self.refusal is None


# Of one reader's batch: its last delivery, and what it amounts to.
Part = tuple[Reader, Partition, Delivery, Prepared]


def prepare(
    epoch: int,
    partition: int,
    before: int,
    deliveries: Sequence[Delivery],
    known: Mapping[str, LanePlace] = NOTHING_KNOWN,
) -> Prepared:
    """`deliveries` follow the position `before`, where the lanes stood at `known`, in stream order."""
    work = PartitionWork(epoch, partition, before, deliveries[-1].sequence)
    lanes = LaneFollower(partition, known)
    work.gaps = lanes.gaps
    prepared = Prepared(work, [], [], lanes.places)
    for delivery in deliveries:
        if CONTROL in delivery.headers:
            continue  # for analysis; it holds no readings
        if TRACEPARENT in delivery.headers:
            prepared.traces.of.append(delivery.headers[TRACEPARENT])
        headers = BlockHeaders.decode(delivery.headers)
        count = headers.count if headers else 0
        if headers:
            source = delivery.subject.rpartition(".")[2]
            place = lanes.follow(headers.lane, headers.number, count, headers.total, delivery.stored_at)
            work.lanes[headers.lane] = LaneMark(headers.lane, source, place.number, place.total, place.seen_at)
            prepared.arrivals.append((headers.arrived_at, count))
        try:
            readings = decode_block(delivery.data)
            if len(readings) != count:
                # What no lane has counted was never accepted, and the ledger must not learn of it as stored.
                raise UnreadableBlock(f"the block holds {len(readings)} readings, and its headers say {count}")
        except UnreadableBlock as error:
            work.dead_lettered += count
            prepared.letters.append(block_letter(partition, delivery, "undecodable", str(error), count))
            continue
        position = delivery.sequence
        work.readings += [(reading, position) for reading in readings]
    return prepared


def newest_of(work: PartitionWork, into: Newest) -> None:
    """For each series the largest by (time, position), the later of equals."""
    for reading, position in work.readings:
        key = (reading.device_id, reading.sensor)
        known = into.get(key)
        if known is None or (reading.at, position) >= known[:2]:
            into[key] = (reading.at, position, reading.value)


def block_letter(partition: int, delivery: Delivery, reason: Reason, detail: str, count: int) -> DeadLetter:
    return DeadLetter(
        id=f"persistence-{partition}-{delivery.sequence}",
        role="persistence",
        reason=reason,
        detail=detail,
        device_id=None,
        received_at=delivery.stored_at,
        readings=count,
        payload=encode_payload(delivery.data),
        encoding="base64",
    )


def reading_letter(partition: int, position: int, index: int, reading: Reading, detail: str, now: int) -> DeadLetter:
    return DeadLetter(
        id=f"persistence-{partition}-{position}-{index}",
        role="persistence",
        reason="unstorable",
        detail=detail,
        device_id=reading.device_id,
        received_at=now,
        readings=1,
        payload=msgspec.json.encode(
            {
                "device_id": reading.device_id,
                "sensor_name": reading.sensor,
                "value": reading.value,
                "timestamp": reading.at,
            }
        ).decode(),
        encoding="json",
    )

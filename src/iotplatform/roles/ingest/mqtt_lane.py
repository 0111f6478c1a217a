"""The lanes of one organization's messages of MQTT: they all move together, from one mark in INTAKE to the next."""

from __future__ import annotations

import secrets
import time
from typing import Final

from iotplatform.adapters.nats.headers import TRACEPARENT, BlockHeaders
from iotplatform.adapters.nats.intake_log import IntakeLog, OutgoingBlock, Resume
from iotplatform.domain.identifiers import partition_of
from iotplatform.domain.organization import Organization
from iotplatform.domain.reading import FORMAT_VERSION, Reading, encode_readings, join_block

# Well inside the time after which a lane is taken for ended, see `adapters.postgres.lanes`.
RENEW_AFTER_S: Final = 300.0


class _Lane:
    """Of one partition."""

    __slots__ = ("id", "number", "total", "used_at")

    def __init__(self) -> None:
        self.id = secrets.token_hex(8)
        self.number = 0
        self.total = 0
        self.used_at = time.monotonic()


class Blocks:
    """What one step of an organization amounts to, by partition; nothing of it changes until it is stored."""

    def __init__(self, organization: Organization, readings: list[Reading], upto: int, arrived_at: int) -> None:
        self.upto = upto
        self.arrived_at = arrived_at
        self.count = len(readings)
        self.parts: dict[int, tuple[bytes, int]] = {}
        by_partition: dict[int, list[Reading]] = {}
        for reading in readings:
            by_partition.setdefault(partition_of(reading.device_id, organization.partitions), []).append(reading)
        # A step without a reading is a step: an empty block says that it was made.
        for partition, some in (by_partition or {0: []}).items():
            self.parts[partition] = (join_block([encode_readings(some)], len(some)), len(some))
        # Under all of these it may have been sent.
        self.lanes: set[str] = set()
        # By partition, where somebody traces what is in it.
        self.traceparents: dict[int, str] = {}
        # Why it was given up.
        self.refusal: str | None = None


class MqttLanes:
    def __init__(self, organization: Organization, log: IntakeLog) -> None:
        self.organization = organization
        self._log = log
        self._lanes: dict[int, _Lane] = {}
        self._resume = Resume(0, [])

    @property
    def position(self) -> int:
        return self._resume.position

    async def acquire(self) -> int:
        """Go on behind whatever was stored last, under new lanes.

        Raises:
            Unavailable: a server is away.
        """
        self._resume = await self._log.resume(self.organization)
        self._lanes.clear()
        return self._resume.position

    async def is_stored(self, blocks: Blocks) -> bool:
        """Whether what was refused had been stored before; then it is not known where its lanes are, and they end."""
        if not await self._log.is_stored(self.organization, self._resume, blocks.upto, blocks.lanes):
            return False
        await self.acquire()
        return True

    def skip(self, upto: int) -> None:
        """What was dead-lettered as a whole leaves a mark of its own."""
        self._resume.position = upto

    async def store(self, blocks: Blocks) -> None:
        """Try once; see `IntakeLog.append` for what it raises."""
        outgoing = [self._outgoing(blocks, partition, *part) for partition, part in blocks.parts.items()]
        await self._log.append(self.organization, self._resume, blocks.upto, outgoing, blocks.lanes)
        for partition, (_, count) in blocks.parts.items():
            lane = self._lanes[partition]
            lane.number += 1
            lane.total += count
            lane.used_at = time.monotonic()
        if len(blocks.lanes) > len(blocks.parts):
            # Which of the lanes it was stored under is not looked into: neither goes on.
            self._lanes.clear()

    def _outgoing(self, blocks: Blocks, partition: int, payload: bytes, count: int) -> OutgoingBlock:
        lane = self._lanes.get(partition)
        if lane is None or time.monotonic() - lane.used_at > RENEW_AFTER_S:
            lane = self._lanes[partition] = _Lane()
        blocks.lanes.add(lane.id)
        headers = BlockHeaders(
            format=FORMAT_VERSION,
            lane=lane.id,
            number=lane.number + 1,
            count=count,
            total=lane.total + count,
            arrived_at=blocks.arrived_at,
        )
        encoded = headers.encode()
        if partition in blocks.traceparents:
            encoded[TRACEPARENT] = blocks.traceparents[partition]
        return OutgoingBlock(partition, payload, encoded)

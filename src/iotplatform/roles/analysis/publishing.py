"""Publishing transitions: in order for each series, and under ids by which doing it again changes nothing."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Iterator, Sequence
from typing import Final

import structlog

from iotplatform.adapters.nats.headers import MSG_ID, TRACEPARENT
from iotplatform.adapters.nats.outstanding import OutstandingTransitions
from iotplatform.adapters.nats.publisher import Publisher, PublishRefused, StreamFull
from iotplatform.adapters.nats.subjects import notifications_subject
from iotplatform.domain.alarm import Transition, decode_transition, transition_id
from iotplatform.errors import Unavailable

log = structlog.get_logger(role="analysis")

PUBLISH_TIMEOUT_S: Final = 5.0
SERIES_AT_ONCE: Final = 64
# Of the whole process, so that a thousand partitions don't flood the connection; waiting is first come, first served.
PUBLISHES_AT_ONCE: Final = 512
LOOK_AGAIN_S: Final = 0.5

Entry = tuple[Transition, bytes]


class TransitionPublisher:
    def __init__(self, publisher: Publisher, outstanding: OutstandingTransitions) -> None:
        self._publisher = publisher
        self._outstanding = outstanding
        self._places = asyncio.Semaphore(PUBLISHES_AT_ONCE)
        self._waiting: set[int] = set()

    async def publish(self, encoded: Sequence[bytes], *, wait: bool) -> None:
        """Series side by side, each in order: were a clearing stored before its raising, the alarm would stay active.

        An organization over its share of NOTIFICATIONS waits here, or with `wait` false is told to come back.

        Raises:
            Unavailable: some of them are not stored; publish all of them again.
        """
        chains: dict[tuple[str, str], list[Entry]] = {}
        for packed in encoded:
            transition = decode_transition(packed)
            chains.setdefault((transition.device_id, transition.sensor), []).append((transition, packed))
        left = iter(chains.values())
        try:
            async with asyncio.TaskGroup() as group:
                for _ in range(min(SERIES_AT_ONCE, len(chains))):
                    group.create_task(self._publish_chains(left, wait=wait))
        except ExceptionGroup as failed:
            raise _first_of(failed.exceptions) from failed

    async def _publish_chains(self, chains: Iterator[list[Entry]], *, wait: bool) -> None:
        for chain in chains:
            for transition, packed in chain:
                await self._publish_one(transition, packed, wait=wait)

    async def _publish_one(self, transition: Transition, packed: bytes, *, wait: bool) -> None:
        epoch = transition.epoch
        await self._wait_for_share(transition.organization_id, epoch, wait=wait)
        subject = notifications_subject(transition.organization_id, epoch, transition.device_id)
        headers = {MSG_ID: transition_id(transition)}
        if transition.trace is not None:
            headers[TRACEPARENT] = transition.trace
        try:
            async with self._places:
                ack = await self._publisher.publish(subject, packed, headers, timeout_s=PUBLISH_TIMEOUT_S)
        except (StreamFull, PublishRefused) as error:
            raise Unavailable(f"NOTIFICATIONS: {error}", retry_after_s=5) from error
        if not ack.duplicate:
            self._outstanding.published(epoch, ack.seq)

    async def _wait_for_share(self, organization_id: str, epoch: int, *, wait: bool) -> None:
        while await self._outstanding.is_over_share(epoch):
            if not wait:
                raise Unavailable(f"organization {organization_id} has too many transitions that are not handled yet")
            if epoch not in self._waiting:
                self._waiting.add(epoch)
                log.warning(
                    "analysis.over_share", organization=organization_id, outstanding=self._outstanding.of(epoch)
                )
            # The readers' floors are asked for; nothing tells when they move.
            await asyncio.sleep(LOOK_AGAIN_S)
        self._waiting.discard(epoch)


def _first_of(failures: Iterable[Exception]) -> Exception:
    """A mistake of ours before a server that is away: the one is new, the other will pass."""
    return min(failures, key=lambda failure: isinstance(failure, Unavailable))

"""The care of an organization's stream: what vanished is written down before anything is trimmed."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from functools import partial

import structlog

from iotplatform.adapters.nats.removal import EpochRemover
from iotplatform.adapters.nats.trimming import Trimmer
from iotplatform.adapters.postgres.gaps import Gaps
from iotplatform.domain.gap import Gap
from iotplatform.domain.organization import Organization

log = structlog.get_logger(role="persistence")

FindGaps = Callable[[Organization], Awaitable[Sequence[Gap]]]


class StreamCare:
    """`find_gaps` tells what the stream lacks now; below a cut nobody could tell any more."""

    def __init__(self, trimmer: Trimmer, remover: EpochRemover, gaps: Gaps, find_gaps: FindGaps) -> None:
        self._trimmer = trimmer
        self._remover = remover
        self._gaps = gaps
        self._find_gaps = find_gaps

    async def care_for(self, organization: Organization) -> None:
        """Note what vanished, remove what earlier epochs left, trim.

        Raises:
            Unavailable, ApiError: in the next round, then.
        """
        found = await self._find_gaps(organization)
        if found:
            await self._gaps.record(organization.epoch, found)
        before_cut = partial(self._gaps.cut, organization.epoch)
        strangers = await self._remover.remove_strangers(organization, before_cut)
        if strangers:
            log.info("persistence.strangers_removed", organization=organization.id, blocks=strangers)
        await self._trimmer.trim(organization, before_cut)

    async def trim_notifications(self) -> None:
        await self._trimmer.trim_notifications()

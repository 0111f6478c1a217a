"""The care of an organization's stream: what vanished is written down before anything is trimmed."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import partial

import structlog

from iotplatform.adapters.nats.api import ApiError
from iotplatform.adapters.nats.removal import EpochRemover
from iotplatform.adapters.nats.trimming import Trimmer
from iotplatform.adapters.postgres.gaps import Gaps
from iotplatform.domain.gap import Gap
from iotplatform.domain.organization import Organization

log = structlog.get_logger(role="persistence")

FindGaps = Callable[[Organization], Awaitable[Sequence[Gap]]]
# By epoch, where an organization's stream may hold something else than the settings say.
OwnSizes = Callable[[], Awaitable[Mapping[int, int]]]
# By epoch, the least time in seconds for which an organization keeps anything.
Retentions = Callable[[], Awaitable[Mapping[int, float]]]
Resize = Callable[[str, int | None], Awaitable[None]]


class StreamCare:
    """`find_gaps` tells what the stream lacks now; below a cut nobody could tell any more."""

    def __init__(
        self,
        trimmer: Trimmer,
        remover: EpochRemover,
        gaps: Gaps,
        find_gaps: FindGaps,
        own_sizes: OwnSizes,
        resize: Resize,
        retentions: Retentions,
    ) -> None:
        self._trimmer = trimmer
        self._remover = remover
        self._gaps = gaps
        self._find_gaps = find_gaps
        self._own_sizes = own_sizes
        self._resize = resize
        self._retentions = retentions
        self._keep_at_most_s: Mapping[int, float] = {}
        self._fitted: dict[int, int | None] = {}

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
        at_most_s = self._keep_at_most_s.get(organization.epoch)
        await self._trimmer.trim(organization, before_cut, keep_at_most_s=at_most_s)

    async def fit(self, organizations: Sequence[Organization]) -> None:
        """Each stream to its size, where that is another than when it was looked at last; and how long each is kept.

        The settings change with a start, an organization's limits at any time: management passes those on, if it can.

        Raises:
            Unavailable: in the next round, then.
        """
        self._keep_at_most_s = await self._retentions()
        own = await self._own_sizes()
        for organization in organizations:
            size = own.get(organization.epoch)
            if organization.epoch in self._fitted and self._fitted[organization.epoch] == size:
                continue
            try:
                await self._resize(organization.id, size)
            except ApiError as error:
                # It is being made or deleted; or nats-server has no room for what is asked.
                log.warning("persistence.stream_not_resized", organization=organization.id, detail=str(error))
            else:
                self._fitted[organization.epoch] = size

    async def trim_notifications(self) -> None:
        await self._trimmer.trim_notifications()

"""Carrying out what the upkeep of a partition asks for, by the same commit as its blocks and never beside them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from itertools import islice
from typing import Final

import msgspec
import structlog

from iotplatform.adapters.nats.partitions import Partition
from iotplatform.adapters.nats.reader import Reader
from iotplatform.adapters.nats.readers import Readers
from iotplatform.adapters.postgres.alarm_episodes import AlarmEpisodes
from iotplatform.domain.alarm import AlarmCleared, ClearReason, RuleNames
from iotplatform.errors import Unavailable
from iotplatform.roles.analysis.evaluator import Evaluation
from iotplatform.roles.analysis.holding import Held
from iotplatform.roles.analysis.outdated import why_outdated
from iotplatform.roles.analysis.publishing import TransitionPublisher
from iotplatform.roles.analysis.rule_index import RuleIndex
from iotplatform.roles.analysis.rules import Rules
from iotplatform.roles.analysis.states import SeriesStates, series_of
from iotplatform.roles.analysis.telling import Place, cleared, names_of
from iotplatform.roles.analysis.upkeep import Upkeep
from iotplatform.roles.analysis.work import Workbench
from iotplatform.runtime.clock import now_us
from iotplatform.runtime.tasks import Tasks

log = structlog.get_logger(role="analysis")

LOOK_EVERY_S: Final = 0.5
SERIES_AT_ONCE: Final = 5_000

Guarded = Callable[[Reader, Partition], AbstractAsyncContextManager[None]]
Find = Callable[[Reader], tuple[Partition, Held] | None]


class Tending:
    def __init__(
        self,
        upkeep: Upkeep,
        bench: Workbench,
        rules: Rules,
        episodes: AlarmEpisodes,
        publisher: TransitionPublisher,
        readers: Readers,
    ) -> None:
        self._upkeep = upkeep
        self._bench = bench
        self._rules = rules
        self._episodes = episodes
        self._publisher = publisher
        self._readers = readers
        self._tended: set[Reader] = set()

    async def look_for_presence(self) -> None:
        """Before the first block, and from then on as long as it matters."""
        await self._upkeep.look_for_presence()
        self._bench.presence = self._upkeep.presence

    async def run(self, find: Find, guarded: Guarded, tasks: Tasks) -> None:
        """Until cancelled. `find` tells of which partition a reader is, and what we hold of it."""
        while True:
            await asyncio.sleep(LOOK_EVERY_S)
            readers = [reader for reader in self._readers if reader not in self._tended]
            if self._rules.have_silences:
                await self.look_for_presence()
            for reader in readers:
                found = find(reader)
                if found is not None and await self._upkeep.is_needed(*found):
                    self._tended.add(reader)
                    tasks.spawn(self._tend(reader, find, guarded), f"tend.{reader.name}")

    async def _tend(self, reader: Reader, find: Find, guarded: Guarded) -> None:
        try:
            async with self._claimed(reader, find) as found:
                # Whatever was begun by older rules is committed by now, and nothing more will be.
                pass
            if found is None:
                return
            async with guarded(reader, found[0]):
                await self._compare(*found)
            async with self._claimed(reader, find) as found:
                if found is not None:
                    async with guarded(reader, found[0]):
                        await self._work(*found)
        finally:
            self._tended.discard(reader)

    async def _compare(self, partition: Partition, held: Held) -> None:
        """That PostgreSQL is away keeps no block waiting."""
        try:
            await self._upkeep.compare(partition, held)
        except Unavailable as error:
            log.debug("analysis.upkeep_postponed", organization=partition.organization.id, detail=error.detail)

    @asynccontextmanager
    async def _claimed(self, reader: Reader, find: Find) -> AsyncIterator[tuple[Partition, Held] | None]:
        """What we hold of a partition, while nothing else is under way with it; None when it can't be had now."""
        if not await self._readers.claim(reader):
            yield None
            return
        try:
            yield find(reader)
        finally:
            await self._readers.release({reader: []})

    async def _work(self, partition: Partition, held: Held) -> None:
        try:
            wanted = await self._gather(partition, held)
        except Unavailable as error:
            log.debug("analysis.upkeep_postponed", organization=partition.organization.id, detail=error.detail)
            return
        if wanted is None:
            return
        evaluation = Evaluation(
            partition.organization,
            wanted.index,
            wanted.states,
            held.silences,
            presence=self._upkeep.presence,
            position=held.position,
        )
        now = now_us()
        for lost in wanted.lost:
            evaluation.drop(lost.key, lost.rule_id, _told(partition, held.position, wanted, lost, now))
        for key in wanted.unwatched:
            evaluation.watch_from(key, now)
        evaluation.pass_time(wanted.now)
        evaluation.pack()
        await self._bench.commit_alone(partition, held, evaluation.outcome, self._publisher)
        held.outdated.difference_update(wanted.outdated)
        held.unwatched.difference_update(wanted.unwatched)

    async def _gather(self, partition: Partition, held: Held) -> _Wanted | None:
        """Whatever has to be asked for, before anything is changed.

        Raises:
            Unavailable: a server is away; nothing is lost by looking again.
        """
        index = await self._rules.index(partition.organization.epoch)
        if held.compared_with is not index:
            return None  # changed again meanwhile: the next look compares first
        now = await self._upkeep.clock(partition, held)
        outdated = list(islice(held.outdated, SERIES_AT_ONCE))
        unwatched = list(islice(held.unwatched, SERIES_AT_ONCE))
        silent = [key for key, _ in islice(held.silences.due(now), SERIES_AT_ONCE)]
        states = await self._bench.load(held, {*outdated, *unwatched, *silent})
        lost = [
            _Lost(key, rule_id, state.alarm_id, reason)
            for key in outdated
            for rule_id, state in states[key].items()
            if (reason := why_outdated(index, *series_of(key), rule_id, state)) is not None
        ]
        strange = [one.alarm_id for one in lost if one.alarm_id is not None and one.rule_id not in index.by_id]
        told = await self._episodes.names(strange) if strange else {}
        return _Wanted(index, now, states, outdated, unwatched, lost, told)


class _Lost(msgspec.Struct, frozen=True):
    """What a rule remembers of a series, and no longer may."""

    key: bytes
    rule_id: str
    alarm_id: str | None
    reason: ClearReason


class _Wanted(msgspec.Struct, frozen=True):
    """`told`: what the history says of the rules, by alarm, for those that are deleted."""

    index: RuleIndex
    now: int
    states: dict[bytes, SeriesStates]
    outdated: list[bytes]
    unwatched: list[bytes]
    lost: list[_Lost]
    told: dict[str, RuleNames]


def _told(partition: Partition, position: int, wanted: _Wanted, lost: _Lost, now: int) -> AlarmCleared | None:
    if lost.alarm_id is None:
        return None
    rule = wanted.index.by_id.get(lost.rule_id)
    unknown = RuleNames(lost.rule_id, lost.rule_id, "major", "")
    names = names_of(rule) if rule else wanted.told.get(lost.alarm_id, unknown)
    place = Place(*series_of(lost.key), position, now)
    return cleared(partition.organization, names, lost.alarm_id, place, at=now, reason=lost.reason)

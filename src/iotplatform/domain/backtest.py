"""A rule tried on stored readings: the episodes that it would have raised, by the very engine that raises them live."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import msgspec

from iotplatform.domain.alarm import Evidence
from iotplatform.domain.conditions.judgement import Point
from iotplatform.domain.evaluation import INITIAL, SECOND_US, RuleState, Step, Watch, elapse, evaluate_many
from iotplatform.domain.rule import Rule

# In the place of an alarm's id: nothing is raised.
_NO_ALARM: Final = "backtest"

Series = tuple[str, str]


class FoundEpisode(msgspec.Struct, frozen=True, array_like=True):
    """`readings` raised it, as in an alarm; one that did not end in that time has no `cleared_at`."""

    device_id: str
    sensor: str
    raised_at: int
    first_breach_at: int
    cleared_at: int | None
    trigger_value: float
    readings: tuple[Evidence, ...]


class Backtest:
    """Takes series one after the other, each in order and in as many parts as it comes.

    Keeps the first `limit` episodes by the time when they were raised, and counts all. `ends_at` is where time ends.
    """

    def __init__(self, rule: Rule, limit: int, ends_at: int) -> None:
        self._watch = Watch(msgspec.structs.replace(rule, enabled=True))
        self._limit = limit
        self._ends_at = ends_at
        self._series: Series = ("", "")
        self._state: RuleState = INITIAL
        self._open: FoundEpisode | None = None
        self._kept: list[FoundEpisode] = []
        self.series = 0
        self.readings = 0
        self.episodes = 0

    def feed(self, series: Series, points: Sequence[Point]) -> None:
        if series != self._series:
            self._end_series()
            self._series = series
            self.series += 1
        self.readings += len(points)
        self._state, found = evaluate_many(self._watch, self._state, points, _identify)
        for step, point, state in found:
            self._note(step, point, state)

    def finish(self) -> list[FoundEpisode]:
        """The episodes kept, in the order in which they were raised."""
        self._end_series()
        self._trim()
        return self._kept

    def _end_series(self) -> None:
        """What falls silent raises after its last reading."""
        if self._watch.after_us and self._state.seen_at:
            state, step = elapse(self._watch, self._state, self._ends_at, 0, _identify)
            if step == "raised":
                due_at = self._state.seen_at + self._watch.after_us
                self._note(step, (due_at, self._watch.after_us / SECOND_US), state)
        if self._open is not None:
            self._keep(self._open)
        self._state, self._open = INITIAL, None

    def _note(self, step: Step, point: Point, state: RuleState) -> None:
        at, value = point
        if step == "raised":
            self.episodes += 1
            first = state.evidence[0][0] if state.evidence else state.seen_at
            self._open = FoundEpisode(*self._series, at, first, None, value, state.evidence)
        elif self._open is not None:
            self._keep(msgspec.structs.replace(self._open, cleared_at=at))
            self._open = None

    def _keep(self, episode: FoundEpisode) -> None:
        self._kept.append(episode)
        if len(self._kept) >= 2 * self._limit + 100:
            self._trim()

    def _trim(self) -> None:
        self._kept.sort(key=lambda episode: (episode.raised_at, episode.device_id, episode.sensor))
        del self._kept[self._limit :]


def _identify(_: Watch) -> str:
    return _NO_ALARM

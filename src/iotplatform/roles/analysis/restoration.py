"""From the alarm history and the kept stream to the states at a position. No I/O.

The engine of every day goes over the kept blocks once more. What began before the first of them it can't count, so
the history tells where an alarm was raised and where it was cleared; and at the end the history says which are active.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from iotplatform.domain.alarm import alarm_id
from iotplatform.domain.episode import Episode
from iotplatform.domain.evaluation import INITIAL, RuleState, without_counts
from iotplatform.domain.organization import Organization
from iotplatform.domain.reading import Reading
from iotplatform.roles.analysis.blocks import DecodedBlock, DecodedControl
from iotplatform.roles.analysis.evaluator import NO_READING, Evaluation
from iotplatform.roles.analysis.rule_index import RuleIndex
from iotplatform.roles.analysis.states import SeriesStates, series_key

Told = dict[bytes, list[Episode]]


class Restoration:
    """`episodes` are a partition's that were raised up to the position `floor` and active at sequence `first` or later.

    `first` is where the kept stream begins.
    """

    def __init__(
        self, organization: Organization, index: RuleIndex, episodes: Sequence[Episode], first: int, floor: int
    ) -> None:
        self._organization = organization
        self._index = index
        self._episodes = episodes
        self._floor = floor
        self._raised = _by_position((episode.position, episode) for episode in episodes if episode.position >= first)
        self._cleared = _by_position(
            (episode.cleared_position, episode)
            for episode in episodes
            if episode.cleared_position is not None and episode.cleared_position <= floor
        )
        self._states: dict[bytes, SeriesStates] = {}
        for episode in episodes:
            if episode.is_active_at(first - 1):
                self._raise(episode)

    def feed(self, block: DecodedBlock, first: int = 0, end: int | None = None) -> None:
        """The readings from number `first` to before number `end` of a block, in stream order."""
        told_raised, told_cleared = self._raised.get(block.position), self._cleared.get(block.position)
        if told_raised is None and told_cleared is None:
            self._evaluate(block, first, end)
            return
        self._feed_told(block, first, end, told_raised or {}, told_cleared or {})
        if end is None or end >= len(block.readings):
            self._apply_between(block.position)

    def obey(self, piece: DecodedControl) -> None:
        evaluation = Evaluation(self._organization, self._index, self._states)
        evaluation.obey(piece)
        evaluation.pack()
        self._apply_between(piece.position)

    def _feed_told(self, block: DecodedBlock, first: int, end: int | None, raised: Told, cleared: Told) -> None:
        for number, reading in enumerate(block.readings[first:end], first):
            self._evaluate(block, number, number + 1)
            if not isinstance(reading.value, str):
                key = series_key(reading.device_id, reading.sensor)
                self._apply_raised(number, raised.get(key, ()))
                self._apply_cleared(reading, cleared.get(key, ()))

    def states(self) -> dict[bytes, SeriesStates]:
        """What is to be remembered of each series. The active alarms are those of the history, no more and no less."""
        active = {
            (series_key(episode.device_id, episode.sensor), episode.rule_id): episode
            for episode in self._episodes
            if episode.is_active_at(self._floor)
        }
        for key, series in self._states.items():
            for rule_id, state in list(series.items()):
                if state.alarm_id is not None and (key, rule_id) not in active:
                    series[rule_id] = without_counts(state)
        for episode in active.values():
            if self._of(episode).alarm_id != episode.alarm_id:
                self._raise(episode)
        kept = {
            key: {rule_id: state for rule_id, state in series.items() if state != INITIAL}
            for key, series in self._states.items()
        }
        return {key: series for key, series in kept.items() if series}

    def _evaluate(self, block: DecodedBlock, first: int, end: int | None) -> None:
        keys = {series_key(reading.device_id, reading.sensor) for reading in block.readings[first:end]}
        for key in keys:
            self._states.setdefault(key, {})
        # What it tells of is told: nothing is published, and only the states remain.
        Evaluation(self._organization, self._index, self._states).feed(block, first, end)
        for key in keys:
            if all(state is INITIAL for state in self._states[key].values()):
                del self._states[key]

    def _apply_raised(self, number: int, episodes: Iterable[Episode]) -> None:
        """The streak may have begun before the kept stream; the id says that it was this reading."""
        for episode in episodes:
            if episode.alarm_id == self._id_of(episode, number):
                self._raise(episode)

    def _apply_cleared(self, reading: Reading, episodes: Iterable[Episode]) -> None:
        """The good readings may have begun before the kept stream.

        Of several good ones in the block with the same time the first will do: up to the right one nothing follows
        that would not come to the same.
        """
        for episode in episodes:
            state = self._of(episode)
            if state.alarm_id == episode.alarm_id and state.good and reading.at == episode.cleared_at:
                self._set(episode, without_counts(state))

    def _apply_between(self, position: int) -> None:
        """What happened after the block at this position, and before the next: by time, or by a change of rules."""
        for episodes in self._raised.get(position, {}).values():
            for episode in episodes:
                if episode.alarm_id == self._id_of(episode, NO_READING):
                    self._raise(episode)
        for episodes in self._cleared.get(position, {}).values():
            for episode in episodes:
                state = self._of(episode)
                if state.alarm_id == episode.alarm_id:
                    self._set(episode, without_counts(state))

    def _id_of(self, episode: Episode, number: int) -> str:
        organization = self._organization
        return alarm_id(
            organization.id,
            organization.epoch,
            episode.rule_id,
            episode.device_id,
            episode.sensor,
            episode.position,
            number,
        )

    def _raise(self, episode: Episode) -> None:
        state, watch = self._of(episode), self._index.watches.get(episode.rule_id)
        mark = state.mark or (watch.mark if watch else 0)
        active = RuleState(0, 0, episode.alarm_id, episode.evidence, mark, state.last, (), state.seen_at)
        self._set(episode, active)

    def _of(self, episode: Episode) -> RuleState:
        return self._states.get(series_key(episode.device_id, episode.sensor), {}).get(episode.rule_id, INITIAL)

    def _set(self, episode: Episode, state: RuleState) -> None:
        self._states.setdefault(series_key(episode.device_id, episode.sensor), {})[episode.rule_id] = state


def _by_position(entries: Iterable[tuple[int, Episode]]) -> dict[int, Told]:
    """Position → series → episodes."""
    found: dict[int, Told] = {}
    for position, episode in entries:
        key = series_key(episode.device_id, episode.sensor)
        found.setdefault(position, {}).setdefault(key, []).append(episode)
    return found

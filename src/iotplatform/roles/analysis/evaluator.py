"""One partition's blocks through the engine: from loaded states to changed states and transitions. No I/O."""

from __future__ import annotations

from collections.abc import Sequence

from iotplatform.domain.alarm import RuleNames, Transition, alarm_id
from iotplatform.domain.control import ClearAlarm, ForgetDevice
from iotplatform.domain.evaluation import INITIAL, RuleState, Watch, cleared_by_hand, elapse, evaluate, silent_at
from iotplatform.domain.organization import Organization
from iotplatform.domain.presence import ALWAYS, Presence
from iotplatform.domain.reading import Reading
from iotplatform.roles.analysis.blocks import DecodedBlock, DecodedControl, Piece
from iotplatform.roles.analysis.outcome import Breach, Outcome
from iotplatform.roles.analysis.rule_index import RuleIndex, Watches
from iotplatform.roles.analysis.silences import Silences
from iotplatform.roles.analysis.states import SeriesStates, device_prefix, pack_states, series_key, series_of
from iotplatform.roles.analysis.telling import (
    Place,
    cleared,
    names_of,
    raised_by_reading,
    raised_by_silence,
)
from iotplatform.runtime.pace import Pace

# In the place of a reading's number, for what no reading has raised.
NO_READING = -1
_NOTHING = Reading("", "", 0.0, 0)


class Evaluation:
    """A partition's blocks through the engine in stream order, in slices of any size.

    `states` holds every wanted series and is changed in place. `silences` are the partition's, and count only in the
    platform's `presence`; what has happened up to `position` is done with.
    """

    def __init__(
        self,
        organization: Organization,
        index: RuleIndex,
        states: dict[bytes, SeriesStates],
        silences: Silences | None = None,
        *,
        presence: Presence = ALWAYS,
        position: int = 0,
    ) -> None:
        self._organization = organization
        self._index = index
        self._states = states
        self._silences = Silences() if silences is None else silences
        self._presence = presence
        self._changed: set[bytes] = set()
        # Of the reading that is being evaluated.
        self._position = position
        self._number = NO_READING
        self._reading = _NOTHING
        self.outcome = Outcome()

    def feed(self, block: DecodedBlock, first: int = 0, end: int | None = None) -> None:
        """The readings from number `first` to before number `end`."""
        if first == 0 and self._index.has_silences:
            self.pass_time(self._presence.clock(block.stored_at))
        self._position = block.position
        matching, states, changed = self._index.matching, self._states, self._changed
        for number, reading in enumerate(block.readings[first:end], first):
            device_id, sensor, value = reading.device_id, reading.sensor, reading.value
            watches = matching(device_id, sensor)
            if not watches:
                continue
            if isinstance(value, str):
                watches, value = tuple([watch for watch in watches if watch.after_us]), 0.0
            key = series_key(device_id, sensor)
            self._number, self._reading = number, reading
            if self._evaluate(block, reading, float(value), watches, key, states[key]):
                changed.add(key)

    def pass_time(self, now: int) -> None:
        """Without a reading, up to `now` by the clock of arrivals."""
        if not self._silences.has_due(now):
            return
        self._number = NO_READING
        for key, rule_id in self._silences.take(now):
            watch, series = self._index.watches.get(rule_id), self._states.get(key)
            if series is None:
                self._silences.put(key, rule_id, now)  # not loaded: it keeps its place
                continue
            if watch is None or rule_id not in series:
                continue
            before = series[rule_id]
            due_at = silent_at(watch, before, self._presence.since)
            if due_at is None or before.mark != watch.mark:
                continue
            device_id, sensor = series_of(key)
            self._reading = Reading(device_id, sensor, 0.0, 0)
            after, step = elapse(watch, before, now, self._presence.since, self._identify)
            if step == "raised":
                place = Place(device_id, sensor, self._position, now)
                self.outcome.transitions.append(raised_by_silence(self._organization, watch, after, place, due_at))
                series[rule_id] = after
                self._changed.add(key)
            else:
                self._silences.put(key, rule_id, due_at)

    def obey(self, piece: DecodedControl) -> None:
        """What a hand says, in its place among the blocks."""
        self._position = piece.position
        control = piece.control
        if isinstance(control, ForgetDevice):
            prefix = device_prefix(control.device_id)
            for key in [key for key in self._states if key.startswith(prefix)]:
                self._forget(key, piece, control)
            return
        key = series_key(control.device_id, control.sensor)
        state = self._states.get(key, {}).get(control.rule_id, INITIAL)
        if state.alarm_id == control.alarm_id:
            place = Place(control.device_id, control.sensor, piece.position, piece.arrived_at)
            self._clear_by_hand(control, place)
            self._states[key][control.rule_id] = cleared_by_hand(state)
            self._changed.add(key)

    def watch_from(self, key: bytes, now: int) -> None:
        """A series that nobody has listened to: its silence counts from now on."""
        device_id, sensor = series_of(key)
        for watch in self._index.matching(device_id, sensor):
            if watch.after_us and watch.id not in self._states[key]:
                self._states[key][watch.id] = RuleState(mark=watch.mark, seen_at=now)
                self._silences.put(key, watch.id, now + watch.after_us)
                self._changed.add(key)

    def drop(self, key: bytes, rule_id: str, told: Transition | None) -> None:
        """Drop what a rule remembers of a series, since it no longer looks at it; `told` when that ends an alarm."""
        self._states[key][rule_id] = INITIAL
        self._changed.add(key)
        if told is not None:
            self.outcome.transitions.append(told)

    def pack(self, limit: int | None = None) -> int:
        """Put up to `limit` of the changed states into the outcome, forgetting those at the beginning; how many."""
        count = len(self._changed) if limit is None else min(limit, len(self._changed))
        for _ in range(count):
            key = self._changed.pop()
            kept = {rule_id: state for rule_id, state in self._states[key].items() if state is not INITIAL}
            self._states[key] = kept
            self.outcome.states[key] = pack_states(kept)
        return count

    def _evaluate(
        self, block: DecodedBlock, reading: Reading, value: float, watches: Watches, key: bytes, series: SeriesStates
    ) -> bool:
        changed, identify = False, self._identify
        for watch in watches:
            before = series.get(watch.id, INITIAL)
            if before is not INITIAL and before.mark != watch.mark and before.mark:
                before = self._with_changed_rule(block, watch, before)
                series[watch.id] = before
                changed = True
            if watch.after_us and (key, watch.id) not in self._silences:
                before = self._listen(block, watch, key, series, before)
            after, step = evaluate(watch, before, value, reading.at, block.stored_at, identify)
            if after is before:
                continue
            series[watch.id] = after
            changed = True
            if step:
                self._tell(block, reading, watch, before, after)
        return changed

    def _listen(
        self, block: DecodedBlock, watch: Watch, key: bytes, series: SeriesStates, before: RuleState
    ) -> RuleState:
        """To a series that is new here. It may be one that others have heard: then the silence ends with this block."""
        self._silences.put(key, watch.id, block.stored_at + watch.after_us)
        due_at = silent_at(watch, before, self._presence.since)
        now = self._presence.clock(block.stored_at)
        if due_at is None or now < due_at:
            return before
        number, self._number = self._number, NO_READING
        after, _ = elapse(watch, before, now, self._presence.since, self._identify)
        self._number = number
        place = Place(self._reading.device_id, self._reading.sensor, block.position, block.arrived_at)
        self.outcome.transitions.append(raised_by_silence(self._organization, watch, after, place, due_at))
        series[watch.id] = after
        return after

    def _tell(self, block: DecodedBlock, reading: Reading, watch: Watch, before: RuleState, after: RuleState) -> None:
        """Of a breach that counts, or of an alarm that is raised or cleared by a reading."""
        if before.alarm_id is not None:
            place = Place(reading.device_id, reading.sensor, block.position, block.arrived_at)
            value = float(reading.value) if not isinstance(reading.value, str) else None
            self.outcome.transitions.append(
                cleared(self._organization, names_of(watch.rule), before.alarm_id, place, at=reading.at, value=value)
            )
            return
        streak = len(after.evidence) if watch.tally else after.streak or before.streak + 1
        self.outcome.breaches.append(Breach(reading.device_id, reading.sensor, watch.id, after.evidence[-1][1], streak))
        if after.alarm_id is not None:
            place = Place(reading.device_id, reading.sensor, block.position, block.arrived_at)
            self.outcome.transitions.append(
                raised_by_reading(self._organization, watch.rule, after, place, reading.at, after.evidence[-1][1])
            )

    def _with_changed_rule(self, block: DecodedBlock, watch: Watch, before: RuleState) -> RuleState:
        """Nobody has come by yet to clear what another condition has raised."""
        if before.alarm_id is not None:
            place = Place(self._reading.device_id, self._reading.sensor, block.position, block.arrived_at)
            self.outcome.transitions.append(
                cleared(
                    self._organization,
                    names_of(watch.rule),
                    before.alarm_id,
                    place,
                    at=block.stored_at,
                    reason="rule_changed",
                )
            )
        return INITIAL

    def _forget(self, key: bytes, piece: DecodedControl, control: ForgetDevice) -> None:
        device_id, sensor = series_of(key)
        place = Place(device_id, sensor, piece.position, piece.arrived_at)
        for rule_id, state in self._states[key].items():
            if state.alarm_id is not None:
                self.outcome.transitions.append(
                    cleared(
                        self._organization,
                        self._names(rule_id),
                        state.alarm_id,
                        place,
                        at=control.at,
                        reason="device_deleted",
                        by=control.by,
                    )
                )
        self._states[key] = {}
        self._changed.add(key)

    def _clear_by_hand(self, control: ClearAlarm, place: Place) -> None:
        names = self._names(control.rule_id)
        self.outcome.transitions.append(
            cleared(self._organization, names, control.alarm_id, place, at=control.at, reason="manual", by=control.by)
        )

    def _names(self, rule_id: str) -> RuleNames:
        rule = self._index.by_id.get(rule_id)
        return names_of(rule) if rule is not None else RuleNames(rule_id, rule_id, "major", "")

    def _identify(self, watch: Watch) -> str:
        """It follows from where the reading stands, so whoever evaluates it again comes to the same."""
        organization = self._organization
        return alarm_id(
            organization.id,
            organization.epoch,
            watch.id,
            self._reading.device_id,
            self._reading.sensor,
            self._position,
            self._number,
        )


def evaluate_blocks(evaluation: Evaluation, pieces: Sequence[Piece]) -> Outcome:
    """Everything at once, for as many readings as the caller's time allows."""
    for piece in pieces:
        if isinstance(piece, DecodedBlock):
            evaluation.feed(piece)
        else:
            evaluation.obey(piece)
    evaluation.pack()
    return evaluation.outcome


async def evaluate_in_slices(evaluation: Evaluation, pieces: Sequence[Piece], pace: Pace) -> Outcome:
    """The same, giving way to the rest of the process in between."""
    for piece in pieces:
        if isinstance(piece, DecodedControl):
            evaluation.obey(piece)
            continue
        for first in range(0, len(piece.readings), pace.steps):
            end = min(first + pace.steps, len(piece.readings))
            evaluation.feed(piece, first, end)
            await pace.done(end - first)
    while packed := evaluation.pack(pace.steps):
        await pace.done(packed)
    return evaluation.outcome

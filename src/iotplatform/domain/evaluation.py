"""The alarm engine: one pure step from a state and a reading to the next state, and what it means.

The table of its steps stands in docs/rules.md, and a test makes every cell of it. Readings count in stream order,
whatever their times; live evaluation, restart, rebuild and backtest all come through here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Final, Literal

import msgspec

from iotplatform.domain.alarm import Evidence
from iotplatform.domain.conditions.judgement import BREACH, GOOD, Point
from iotplatform.domain.rule import Rule

MAX_EVIDENCE: Final = 100
SECOND_US: Final = 1_000_000

Step = Literal["", "breach", "raised", "cleared"]
# The id that an alarm of this rule, raised just now, gets.
Identify = Callable[["Watch"], str]


class RuleState(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """What a rule remembers of a series. Stored for good: fields are only ever added, at the end.

    Breaches or good readings in a row, the active alarm, and the breaches that raise it (of a long streak the first
    and the last, MAX_EVIDENCE at most). `mark` is the rule's: one with another mark counts from the beginning, and 0
    was written before there were marks. `last` is the series' reading before, where the rule looks back, `window` for
    each breach of `m_of_n` how many readings ago it was, `seen_at` when the series was last heard of.
    """

    streak: int = 0
    good: int = 0
    alarm_id: str | None = None
    evidence: tuple[Evidence, ...] = ()
    mark: int = 0
    last: Point | None = None
    window: tuple[int, ...] = ()
    seen_at: int = 0


INITIAL: Final = RuleState()


class Watch:
    """A rule made ready to be evaluated many times."""

    __slots__ = (
        "after_us", "clear_after", "for_us", "gap_us", "id", "ignores_late", "is_plain", "judge", "latched",
        "looks_back", "mark", "raise_after", "rule", "tally",
    )  # fmt: skip

    def __init__(self, rule: Rule) -> None:
        condition = rule.condition
        self.rule = rule
        self.id = rule.id
        self.mark = rule.mark
        self.judge = condition.judge()
        self.tally = condition.tally()
        self.raise_after = rule.raise_after
        self.clear_after = rule.clear_after
        self.latched = rule.latched
        self.for_us = _microseconds(rule.for_s)
        self.gap_us = _microseconds(rule.max_gap_s)
        self.ignores_late = rule.late == "ignore"
        self.after_us = _microseconds(condition.silence_s)
        self.looks_back = condition.looks_back or self.gap_us > 0 or self.ignores_late
        self.is_plain = not (self.looks_back or self.tally or self.after_us)


def evaluate(
    watch: Watch, state: RuleState, value: float, at: int, arrived_at: int, identify: Identify
) -> tuple[RuleState, Step]:
    """The state after a reading, and what happened: nothing, a breach that counts, an alarm raised or cleared.

    The returned state is the very same object when nothing changed, so that callers write only what did.
    """
    if not watch.is_plain:
        return _evaluate_with_memory(watch, state, value, at, arrived_at, identify)
    verdict = watch.judge(value, at, None)
    if state.alarm_id is None:
        if verdict != BREACH:
            return (INITIAL if state.streak else state), ""
        streak = state.streak + 1
        evidence = (*_bounded(state.evidence), (at, value))
        if streak >= watch.raise_after:
            return RuleState(0, 0, identify(watch), evidence, watch.mark), "raised"
        return RuleState(streak, 0, None, evidence, watch.mark), "breach"
    if watch.latched:
        return state, ""
    if verdict != GOOD:
        return (RuleState(0, 0, state.alarm_id, state.evidence, watch.mark) if state.good else state), ""
    good = state.good + 1
    if good >= watch.clear_after:
        return INITIAL, "cleared"
    return RuleState(0, good, state.alarm_id, state.evidence, watch.mark), ""


def _evaluate_with_memory(
    watch: Watch, state: RuleState, value: float, at: int, arrived_at: int, identify: Identify
) -> tuple[RuleState, Step]:
    last = state.last
    if last is not None:
        if watch.ignores_late and at < last[0]:
            return state, ""
        if watch.gap_us and at - last[0] > watch.gap_us:
            state = _counted_anew(state)
    verdict = watch.judge(value, at, last)
    now = (at, value) if watch.looks_back else None
    seen_at = arrived_at if watch.after_us else 0
    if state.alarm_id is None:
        return _inactive(watch, state, (at, value), verdict, identify, now, seen_at)
    good = 0
    if not watch.latched and verdict == GOOD:
        # A silence that is long enough to raise is no good reading in a row.
        is_broken = watch.after_us and arrived_at - state.seen_at >= watch.after_us
        good = 1 if is_broken else state.good + 1
        if good >= watch.clear_after:
            return _nothing_counted(watch, now, seen_at), "cleared"
    after = RuleState(0, good, state.alarm_id, state.evidence, watch.mark, now, (), seen_at)
    return (state if after == state else after), ""


def _inactive(
    watch: Watch, state: RuleState, point: Point, verdict: int, identify: Identify, now: Point | None, seen_at: int
) -> tuple[RuleState, Step]:
    streak, evidence, window = state.streak, state.evidence, state.window
    if watch.tally is not None:
        evidence, window, is_enough = watch.tally(evidence, window, verdict, point)
        streak = len(evidence)
    elif verdict == BREACH:
        streak, evidence = streak + 1, (*_bounded(evidence), point)
        is_long_enough = not watch.for_us or point[0] - evidence[0][0] >= watch.for_us
        is_enough = streak >= watch.raise_after and is_long_enough
    else:
        streak, evidence, is_enough = 0, (), False
    if is_enough:
        return RuleState(0, 0, identify(watch), evidence, watch.mark, now, (), seen_at), "raised"
    if not streak:
        after = _nothing_counted(watch, now, seen_at)
        return (state if after == state else after), ""
    return (
        RuleState(streak, 0, None, evidence, watch.mark, now, window, seen_at),
        "breach" if verdict == BREACH else "",
    )


def elapse(watch: Watch, state: RuleState, now: int, present_since: int, identify: Identify) -> tuple[RuleState, Step]:
    """The same for time that passes without a reading, up to `now` by the clock of arrivals.

    The platform has been there for readings to arrive since `present_since`: nobody is silent whom nobody could hear.
    """
    due_at = silent_at(watch, state, present_since)
    if due_at is None or now < due_at:
        return state, ""
    return RuleState(0, 0, identify(watch), (), watch.mark, None, (), state.seen_at), "raised"


def silent_at(watch: Watch, state: RuleState, present_since: int) -> int | None:
    """When the series has been silent for long enough to raise; None when it can't be."""
    if not watch.after_us or not state.seen_at or state.alarm_id is not None:
        return None
    return max(state.seen_at, present_since) + watch.after_us


def without_counts(state: RuleState) -> RuleState:
    """What is known of the series itself, and nothing that was counted."""
    if state.last is None and not state.seen_at:
        return INITIAL
    return RuleState(mark=state.mark, last=state.last, seen_at=state.seen_at)


def cleared_by_hand(state: RuleState) -> RuleState:
    """Readings that still breach start the count anew; a silent series has to be heard again."""
    if state.last is None and not state.seen_at:
        return INITIAL
    return RuleState(mark=state.mark, last=state.last)


def evaluate_many(
    watch: Watch, state: RuleState, points: Iterable[Point], identify: Identify
) -> tuple[RuleState, list[tuple[Step, Point, RuleState]]]:
    """A series' readings in order, each taken to have arrived at its own time: its alarms raised and cleared.

    Each with the reading at which it happened and, of a raised one, the state after it, of a cleared one the state
    before it.
    """
    found: list[tuple[Step, Point, RuleState]] = []
    for point in points:
        at, value = point
        if watch.after_us:
            due_at = silent_at(watch, state, 0)
            if due_at is not None and at >= due_at:
                state, step = elapse(watch, state, at, 0, identify)
                found.append((step, (due_at, watch.after_us / SECOND_US), state))
        before = state
        state, step = evaluate(watch, state, value, at, at, identify)
        if step == "raised":
            found.append((step, point, state))
        elif step == "cleared":
            found.append((step, point, before))
    return state, found


def _nothing_counted(watch: Watch, now: Point | None, seen_at: int) -> RuleState:
    return RuleState(mark=watch.mark, last=now, seen_at=seen_at) if now is not None or seen_at else INITIAL


def _counted_anew(state: RuleState) -> RuleState:
    if state.alarm_id is None:
        return without_counts(state)
    return RuleState(0, 0, state.alarm_id, state.evidence, state.mark, state.last, (), state.seen_at)


def _bounded(evidence: tuple[Evidence, ...]) -> tuple[Evidence, ...]:
    return evidence if len(evidence) < MAX_EVIDENCE else (evidence[0], *evidence[-(MAX_EVIDENCE - 2) :])


def _microseconds(seconds: float | None) -> int:
    return 0 if seconds is None else max(1, round(seconds * SECOND_US))

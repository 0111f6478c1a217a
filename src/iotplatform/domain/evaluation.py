"""The alarm engine: one pure step from a state and a reading to the next state, and what it means.

    inactive --breach--> streak + 1; at `raise_after`: raised      active --good--> good + 1; at `clear_after`: cleared
    inactive --other---> streak 0                                  active --other-> good 0

A breach meets the rule's condition, a good reading doesn't. Readings count in stream order, whatever their times.
"""

from __future__ import annotations

from typing import Final, Literal

import msgspec

from iotplatform.domain.alarm import Evidence
from iotplatform.domain.conditions.judgement import BREACH
from iotplatform.domain.rule import Rule

MAX_EVIDENCE: Final = 100

Step = Literal["", "breach", "raised", "cleared"]


class RuleState(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """What a rule remembers of a series: breaches or good readings in a row, the active alarm, the streak's readings.

    `evidence` holds the readings of the streak, of a long one its first and its last, MAX_EVIDENCE at most.
    """

    streak: int = 0
    good: int = 0
    alarm_id: str | None = None
    evidence: tuple[Evidence, ...] = ()


INITIAL: Final = RuleState()


def evaluate(rule: Rule, state: RuleState, value: float, at: int, alarm_id: str) -> tuple[RuleState, Step]:
    """The state after a reading, and what happened: nothing, a breach that counts, an alarm raised or cleared.

    `alarm_id` is the id that an alarm raised by this reading gets. The returned state is the very same object when
    nothing changed, so that callers write only what did.
    """
    met = rule.condition.judge()(value, at, None) == BREACH
    if state.alarm_id is None:
        if not met:
            return (INITIAL if state.streak else state), ""
        evidence = (*_bounded(state.evidence), (at, value))
        if state.streak + 1 >= rule.raise_after:
            return RuleState(alarm_id=alarm_id, evidence=evidence), "raised"
        return RuleState(streak=state.streak + 1, evidence=evidence), "breach"
    if met:
        return (RuleState(alarm_id=state.alarm_id, evidence=state.evidence) if state.good else state), ""
    if state.good + 1 >= rule.clear_after:
        return INITIAL, "cleared"
    return RuleState(good=state.good + 1, alarm_id=state.alarm_id, evidence=state.evidence), ""


def _bounded(evidence: tuple[Evidence, ...]) -> tuple[Evidence, ...]:
    return evidence if len(evidence) < MAX_EVIDENCE else (evidence[0], *evidence[-(MAX_EVIDENCE - 2) :])

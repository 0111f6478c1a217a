"""Why a rule is raised for a series, or isn't: in words, from what the engine remembers and what it saw last."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Final, Literal

import msgspec

from iotplatform.domain.conditions import MOfN, NoData, Threshold
from iotplatform.domain.conditions.judgement import BREACH, GOOD, Point
from iotplatform.domain.evaluation import INITIAL, SECOND_US, RuleState, Watch
from iotplatform.domain.reading import Value
from iotplatform.domain.rule import Rule
from iotplatform.domain.timestamps import format_timestamp

# As in the table of docs/rules.md; `unwatched`: the rule does not look at it, `unknown`: analysis is rebuilding.
Condition = Literal["quiet", "counting", "active", "recovering", "unwatched", "unknown"]
Verdict = Literal["breach", "good", "neither", "late", "text"]

_VERDICTS: Final[dict[int, Verdict]] = {BREACH: "breach", GOOD: "good"}


class SeenReading(msgspec.Struct, frozen=True):
    """`position` is where its block stands in the stream."""

    at: int
    value: Value
    position: int


class JudgedReading(msgspec.Struct, frozen=True):
    at: int
    value: Value
    verdict: Verdict


def reason_not_to_look(rule: Rule, device_id: str, sensor: str, tags: Collection[str]) -> str | None:
    """Why the rule does not look at this series; None when it does."""
    if not rule.enabled:
        return "the rule is disabled"
    if not rule.matches(sensor):
        return f"the rule looks at sensors {rule.sensor!r}, and {sensor!r} is none of them"
    if rule.concerns(device_id, tags):
        return None
    wanted = rule.devices
    if wanted is not None and wanted.tags:
        missing = ", ".join(repr(tag) for tag in wanted.tags if tag not in tags)
        return f"the rule looks at devices with certain tags, and this one lacks {missing}"
    return "the rule looks at certain devices, and this one is not among them"


def condition_of(rule: Rule, state: RuleState) -> Condition:
    """Which row of the table it is in."""
    if is_stale(rule, state):
        return "quiet"
    if state.alarm_id is not None:
        return "recovering" if state.good else "active"
    return "counting" if state.streak else "quiet"


def is_stale(rule: Rule, state: RuleState) -> bool:
    """Whether it was remembered by the rule as it was before."""
    return state.mark not in {0, rule.mark}


def judge(rule: Rule, readings: Sequence[SeenReading]) -> list[JudgedReading]:
    """What the rule says of readings that it saw in this order. Of the first one it may not know the one before."""
    watch = Watch(rule)
    last: Point | None = None
    judged = []
    for reading in readings:
        if isinstance(reading.value, str):
            verdict: Verdict = "good" if watch.after_us else "text"
        elif watch.ignores_late and last is not None and reading.at < last[0]:
            verdict = "late"
        else:
            value = float(reading.value)
            verdict = _VERDICTS.get(watch.judge(value, reading.at, last), "neither")
            last = (reading.at, value)
        judged.append(JudgedReading(reading.at, reading.value, verdict))
    return judged


def explain(rule: Rule, state: RuleState, readings: Sequence[JudgedReading]) -> str:
    """A few sentences; `readings` are the last ones, the newest at the end."""
    if is_stale(rule, state):
        return "Not raised: the rule has just been changed, and everything is counted anew."
    if state.alarm_id is not None:
        return " ".join((_raised(rule, state), _clearing(rule, state)))
    if isinstance(rule.condition, NoData):
        return _listening(rule.condition, state)
    if state.streak:
        return _counting(rule, state)
    return _quiet(rule, readings)


def _raised(rule: Rule, state: RuleState) -> str:
    if not state.evidence:
        return f"Raised: {rule.summary}; the last reading arrived at {format_timestamp(state.seen_at)}."
    at, value = state.evidence[-1]
    text = f"Raised by the reading {value:g} of {format_timestamp(at)}: {rule.summary}"
    if len(state.evidence) > 1:
        text += f", the first breach at {format_timestamp(state.evidence[0][0])}"
    return f"{text}."


def _clearing(rule: Rule, state: RuleState) -> str:
    if rule.latched:
        return "It is latched: only a hand clears it."
    good = "any reading is good" if isinstance(rule.condition, NoData) else f"good is what is {_good(rule)}"
    if rule.clear_after == 1:
        return f"A good reading clears it; {good}."
    return f"{rule.clear_after} good readings in a row clear it, {state.good} so far; {good}."


def _good(rule: Rule) -> str:
    condition = rule.condition
    if isinstance(condition, Threshold) and condition.clear_value is not None:
        return f"not {condition.operator} {condition.clear_value:g}"
    return f"not {condition}"


def _counting(rule: Rule, state: RuleState) -> str:
    first, last = state.evidence[0], state.evidence[-1]
    if isinstance(rule.condition, MOfN):
        condition = rule.condition
        breached = f"of the last {condition.n} readings {state.streak} breached ({condition})"
        return f"Not raised: {breached}, and it takes {condition.m}."
    row = "breach" if state.streak == 1 else "breaches in a row"
    text = f"Not raised: {state.streak} {row} ({rule.condition}) since {format_timestamp(first[0])}"
    if state.streak < rule.raise_after:
        text += f", and it takes {rule.raise_after}"
    if rule.for_s is not None:
        lasted_s = (last[0] - first[0]) / SECOND_US
        text += f", over {lasted_s:g} s so far, and they must span {rule.for_s:g} s"
    return f"{text}."


def _listening(condition: NoData, state: RuleState) -> str:
    if state == INITIAL or not state.seen_at:
        return "Not raised: nothing of this series has arrived since the rule was made, or since its last alarm."
    silent_at = state.seen_at + round(condition.after_s * SECOND_US)
    return (
        f"Not raised: the last reading arrived at {format_timestamp(state.seen_at)}; silence until "
        f"{format_timestamp(silent_at)} raises, if the platform was there to hear it."
    )


def _quiet(rule: Rule, readings: Sequence[JudgedReading]) -> str:
    if not readings:
        return "Not raised: no reading of this series has been evaluated yet."
    last = readings[-1]
    when = f"of {format_timestamp(last.at)}"
    match last.verdict:
        case "text":
            return f"Not raised: the last reading, {when}, is a text, and the rule looks at numbers."
        case "late":
            return f"Not raised: the last reading, {when}, is older than another one, and the rule ignores such."
        case "breach":
            return f"Not raised: the last reading, {when}, breaches ({rule.condition}), and counts began anew after it."
        case _:
            return f"Not raised: the last reading, {float(last.value):g} {when}, is no breach ({rule.condition})."

"""What the contract says of a rule, over all events at once: no state and no steps, only looking back over a list."""

from __future__ import annotations

import msgspec

from iotplatform.domain.conditions import MOfN, NoData, Rate, Threshold

S = 1_000_000


class Seen(msgspec.Struct, frozen=True):
    value: float
    at: int
    arrived_at: int = 0


class Hand(msgspec.Struct, frozen=True):
    """Somebody clears whatever is active."""


def model(rule, events):
    """The transitions, each with the number of its event; `silent` is one that was raised by silence."""
    found = []
    counted = []  # numbers of the readings that count
    begin = 0  # of `counted`, where the present count begins
    active = False
    heard = None  # the number of the reading that a silence is measured from
    for number, event in enumerate(events):
        if isinstance(event, Hand):
            if active:
                found.append(("by hand", number))
                active, begin, heard = False, len(counted), None
            continue
        if isinstance(rule.condition, NoData):
            silent_us = 0 if heard is None else event.arrived_at - events[heard].arrived_at
            if not active and heard is not None and silent_us >= rule.condition.after_s * S:
                found.append(("silent", number))
                active, begin = True, len(counted)
        if rule.late == "ignore" and any(events[other].at > event.at for other in counted):
            continue
        counted.append(number)
        heard = number
        if not active and _raises(rule, events, counted, begin):
            found.append(("raised", number))
            active, begin = True, len(counted)
        elif active and not rule.latched and _clears(rule, events, counted, begin):
            found.append(("cleared", number))
            active, begin = False, len(counted)
    return found


def _raises(rule, events, counted, begin):
    condition = rule.condition
    if isinstance(condition, NoData):
        return False
    if isinstance(condition, MOfN):
        window = _since_a_gap(rule, events, counted, begin)[-condition.n :]
        return sum(_meets(rule, events, counted, place) for place in window) >= condition.m
    run = []
    for place in reversed(_since_a_gap(rule, events, counted, begin)):
        if not _meets(rule, events, counted, place):
            break
        run.insert(0, place)
    if len(run) < rule.raise_after:
        return False
    lasted_us = events[counted[run[-1]]].at - events[counted[run[0]]].at
    return rule.for_s is None or lasted_us >= rule.for_s * S


def _clears(rule, events, counted, begin):
    run = 0
    for place in reversed(_since_a_gap(rule, events, counted, begin)):
        if not _is_good(rule, events, counted, place):
            break
        run += 1
        if isinstance(rule.condition, NoData) and _was_silent(rule, events, counted, place):
            break
    return run >= rule.clear_after


def _since_a_gap(rule, events, counted, begin):
    """Places in `counted` from `begin` on, but not before the last gap."""
    places = list(range(begin, len(counted)))
    if rule.max_gap_s is not None:
        for place in reversed(places):
            if place and events[counted[place]].at - events[counted[place - 1]].at > rule.max_gap_s * S:
                return list(range(place, len(counted)))
    return places


def _was_silent(rule, events, counted, place):
    if not place:
        return False
    before, this = events[counted[place - 1]], events[counted[place]]
    return this.arrived_at - before.arrived_at >= rule.condition.after_s * S


def _meets(rule, events, counted, place):
    condition, reading = rule.condition, events[counted[place]]
    if isinstance(condition, Rate):
        before = events[counted[place - 1]] if place else None
        if before is None or reading.at <= before.at:
            return False
        return _compares(
            (reading.value - before.value) / ((reading.at - before.at) / S), condition.operator, condition.per_s
        )
    return _compares(
        reading.value,
        condition.operator,
        condition.value,
        getattr(condition, "low", None),
        getattr(condition, "high", None),
    )


def _is_good(rule, events, counted, place):
    condition = rule.condition
    if isinstance(condition, NoData):
        return True
    if isinstance(condition, Threshold) and condition.clear_value is not None:
        value = events[counted[place]].value
        return not _compares(value, condition.operator, condition.clear_value)
    return not _meets(rule, events, counted, place)


def _compares(value, operator, limit, low=None, high=None):
    if operator == "inside":
        return not (value < low or value > high)
    if operator == "outside":
        return value < low or value > high
    return {
        ">": value > limit,
        ">=": not value < limit,
        "<": value < limit,
        "<=": not value > limit,
        "==": not (value < limit or value > limit),
        "!=": value < limit or value > limit,
    }[operator]

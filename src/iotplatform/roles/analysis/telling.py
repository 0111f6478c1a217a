"""Transitions: what is told of an alarm that the engine, a hand or a change of rules has raised or cleared."""

from __future__ import annotations

import msgspec

from iotplatform.domain.alarm import AlarmCleared, AlarmRaised, ClearReason, RuleNames
from iotplatform.domain.evaluation import SECOND_US, RuleState, Watch
from iotplatform.domain.organization import Organization
from iotplatform.domain.rule import Rule


class Place(msgspec.Struct, frozen=True):
    """A series, and where in the partition's stream something has happened to it."""

    device_id: str
    sensor: str
    position: int
    arrived_at: int


def names_of(rule: Rule) -> RuleNames:
    return RuleNames(rule.id, rule.name, rule.severity, rule.summary)


def raised_by_reading(
    organization: Organization, rule: Rule, state: RuleState, place: Place, at: int, value: float
) -> AlarmRaised:
    return _raised(
        organization,
        rule,
        state,
        place,
        raised_at=at,
        first_breach_at=state.evidence[0][0],
        trigger_value=value,
    )


def raised_by_silence(
    organization: Organization, watch: Watch, state: RuleState, place: Place, silent_at: int
) -> AlarmRaised:
    """Its times are those of arrivals: since when nothing has come, and since when that is too long."""
    return _raised(
        organization,
        watch.rule,
        state,
        place,
        raised_at=silent_at,
        first_breach_at=state.seen_at,
        trigger_value=watch.after_us / SECOND_US,
    )


def cleared(
    organization: Organization,
    names: RuleNames,
    alarm_id: str,
    place: Place,
    *,
    at: int,
    value: float | None = None,
    reason: ClearReason | None = None,
    by: str | None = None,
) -> AlarmCleared:
    return AlarmCleared(
        alarm_id=alarm_id,
        organization_id=organization.id,
        epoch=organization.epoch,
        rule_id=names.rule_id,
        rule_name=names.rule_name,
        severity=names.severity,
        condition=names.condition,
        device_id=place.device_id,
        sensor=place.sensor,
        cleared_at=at,
        value=value,
        position=place.position,
        arrived_at=place.arrived_at,
        reason=reason,
        by=by,
    )


def _raised(
    organization: Organization,
    rule: Rule,
    state: RuleState,
    place: Place,
    *,
    raised_at: int,
    first_breach_at: int,
    trigger_value: float,
) -> AlarmRaised:
    return AlarmRaised(
        alarm_id=state.alarm_id or "",
        organization_id=organization.id,
        epoch=organization.epoch,
        rule_id=rule.id,
        rule_name=rule.name,
        severity=rule.severity,
        condition=rule.summary,
        device_id=place.device_id,
        sensor=place.sensor,
        raised_at=raised_at,
        first_breach_at=first_breach_at,
        trigger_value=trigger_value,
        readings=list(state.evidence),
        position=place.position,
        arrived_at=place.arrived_at,
        latched=rule.latched,
        reminder_s=rule.reminder_s,
    )

"""`.../rules/{rule}/explain`: why it did, or did not, raise."""

from __future__ import annotations

from typing import Annotated, Final

import msgspec
from litestar import get
from litestar.di import NamedDependency
from litestar.params import FromPath, QueryParameter

from iotplatform.adapters.postgres import devices
from iotplatform.domain import explanation
from iotplatform.domain.evaluation import INITIAL, RuleState
from iotplatform.domain.explanation import Condition, JudgedReading, Verdict
from iotplatform.domain.identifiers import partition_of
from iotplatform.domain.organization import Organization
from iotplatform.domain.reading import Value
from iotplatform.domain.rule import Rule
from iotplatform.domain.telemetry import LastReadings
from iotplatform.domain.timestamps import format_timestamp
from iotplatform.errors import Fault, Rejected
from iotplatform.roles.management.access import READ
from iotplatform.roles.management.context import ManagementContext
from iotplatform.roles.management.paging import BY_ID, DEFAULT_LIMIT, Cursor, Limit, decode_cursor, page
from iotplatform.roles.management.parameters import check_device_ids, check_sensors
from iotplatform.roles.management.rule_backtests import EvidenceAnswer
from iotplatform.roles.management.rule_bodies import RuleAnswer, answer
from iotplatform.roles.management.rules import find_rule

READINGS: Final = 20
_REBUILDING: Final = "Nobody knows: what analysis remembers is just being made or rebuilt. Ask again in a moment."

DeviceId = Annotated[str | None, QueryParameter(description="the device that is asked about; required")]
Sensors = Annotated[list[str] | None, QueryParameter(name="sensor", description="only these sensors; repeatable")]


class JudgedAnswer(msgspec.Struct, frozen=True):
    timestamp: str
    value: Value
    verdict: Verdict


class SeriesExplanation(msgspec.Struct, frozen=True):
    """`why` says it in words. `streak` breaches count towards `raise_after`, `good` readings towards `clear_after`.

    `breaches` are the readings that raised the alarm or count towards one; `last_readings` are those that analysis has
    evaluated, the newest last; `waiting` says that newer ones are stored which it has not.
    """

    device_id: str
    sensor: str
    state: Condition
    why: str
    alarm_id: str | None
    streak: int
    good: int
    breaches: list[EvidenceAnswer]
    last_readings: list[JudgedAnswer]
    waiting: bool


class Explanation(msgspec.Struct, frozen=True):
    rule: RuleAnswer
    items: list[SeriesExplanation]
    next_cursor: str | None


@get("/organizations/{org:str}/rules/{rule:str}/explain", opt=READ)
async def explain_rule(
    org: FromPath[str],
    rule: FromPath[str],
    context: NamedDependency[ManagementContext],
    *,
    device_id: DeviceId = None,
    sensors: Sensors = None,
    limit: Limit = DEFAULT_LIMIT,
    cursor: Cursor = None,
) -> Explanation:
    """For each series of the device what the rule remembers of it, the readings it saw last, and what follows."""
    if device_id is None:
        fault = Fault("is required: say which device it is about", field="device_id")
        raise Rejected("invalid", "the query is not valid", faults=(fault,))
    [device] = check_device_ids([device_id])
    wanted = list(check_sensors(sensors))
    after = decode_cursor(cursor, BY_ID) or ""
    organization = await context.organization(org)
    found = await find_rule(context, organization, rule)
    series = await context.telemetry.last_readings(
        organization.epoch, device, wanted, after=after, limit=limit + 1, readings=READINGS
    )
    known = {one.sensor for one in series}
    if after == "":
        # What was asked for by name is answered, also where nothing was ever stored.
        series += [LastReadings(sensor, []) for sensor in dict.fromkeys(wanted) if sensor not in known]
    explained = await _explain(context, organization, found.rule, device, series)
    shown = page(explained, limit, lambda one: one, lambda last: last.sensor)
    return Explanation(answer(found.rule, found.pack_id), shown.items, shown.next_cursor)


async def _explain(
    context: ManagementContext, organization: Organization, rule: Rule, device_id: str, series: list[LastReadings]
) -> list[SeriesExplanation]:
    device = await devices.find(context.database, organization.epoch, device_id)
    tags = frozenset(device.tags if device else ())
    partition = partition_of(device_id, organization.partitions)
    sensors = [one.sensor for one in series]
    position, states = await context.analysis.states(organization.epoch, partition, device_id, sensors)
    return [
        _series(rule, device_id, one, tags, state.get(rule.id, INITIAL), position)
        for one, state in zip(series, states, strict=True)
    ]


def _series(
    rule: Rule, device_id: str, series: LastReadings, tags: frozenset[str], state: RuleState, position: int | None
) -> SeriesExplanation:
    seen = [reading for reading in series.readings if position is not None and reading.position <= position]
    judged = explanation.judge(rule, seen)
    condition: Condition = explanation.condition_of(rule, state)
    reason = explanation.reason_not_to_look(rule, device_id, series.sensor, tags)
    if reason is not None:
        condition, why = "unwatched", f"Not raised: {reason}."
    elif position is None and series.readings:
        condition, why = "unknown", _REBUILDING
    else:
        why = explanation.explain(rule, state, judged)
    is_told = condition not in {"unwatched", "unknown"} and not explanation.is_stale(rule, state)
    return SeriesExplanation(
        device_id=device_id,
        sensor=series.sensor,
        state=condition,
        why=why,
        alarm_id=state.alarm_id if is_told else None,
        streak=state.streak if is_told else 0,
        good=state.good if is_told else 0,
        breaches=[EvidenceAnswer(format_timestamp(at), value) for at, value in state.evidence] if is_told else [],
        last_readings=[_judged(reading) for reading in judged],
        waiting=len(seen) < len(series.readings),
    )


def _judged(reading: JudgedReading) -> JudgedAnswer:
    return JudgedAnswer(format_timestamp(reading.at), reading.value, reading.verdict)

"""One partition's blocks through the engine: from loaded states to changed states and transitions. No I/O."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from iotplatform.domain.alarm import AlarmCleared, AlarmRaised, Transition, alarm_id
from iotplatform.domain.evaluation import INITIAL, RuleState, evaluate
from iotplatform.domain.organization import Organization
from iotplatform.domain.reading import Reading
from iotplatform.domain.rule import Rule
from iotplatform.roles.analysis.rule_index import RuleIndex

SeriesStates = dict[str, RuleState]

_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(dict[str, RuleState])


class Breach(msgspec.Struct, frozen=True):
    """A breach that counted, for the log."""

    device_id: str
    sensor: str
    rule_id: str
    value: float
    streak: int


class DecodedBlock(msgspec.Struct, frozen=True):
    position: int
    arrived_at: int
    readings: Sequence[Reading]


class Outcome(msgspec.Struct):
    """`states` holds the packed state of each series that changed, empty for one that is back at the beginning."""

    states: dict[bytes, bytes] = msgspec.field(default_factory=dict)
    transitions: list[Transition] = msgspec.field(default_factory=list)
    breaches: list[Breach] = msgspec.field(default_factory=list)


def series_key(device_id: str, sensor: str) -> bytes:
    return f"{device_id}\x00{sensor}".encode()


def wanted_series(blocks: Sequence[DecodedBlock], index: RuleIndex) -> set[bytes]:
    """The series in the blocks that at least one rule looks at."""
    pairs = {(reading.device_id, reading.sensor) for block in blocks for reading in block.readings}
    return {series_key(device_id, sensor) for device_id, sensor in pairs if index.matching(sensor)}


def unpack_states(packed: bytes | None) -> SeriesStates:
    return _decoder.decode(packed) if packed else {}


def evaluate_blocks(
    organization: Organization,
    blocks: Sequence[DecodedBlock],
    index: RuleIndex,
    states: dict[bytes, SeriesStates],
) -> Outcome:
    """Evaluate blocks in stream order. `states` holds every wanted series and is changed in place."""
    outcome = Outcome()
    changed: set[bytes] = set()
    matching = index.matching
    for block in blocks:
        for number, reading in enumerate(block.readings):
            rules = matching(reading.sensor)
            if not rules or isinstance(reading.value, str):
                continue
            key = series_key(reading.device_id, reading.sensor)
            if _evaluate_reading(organization, block, number, reading, rules, states[key], outcome):
                changed.add(key)
    for key in changed:
        kept = {rule_id: state for rule_id, state in states[key].items() if state is not INITIAL}
        states[key] = kept
        outcome.states[key] = _encoder.encode(kept) if kept else b""
    return outcome


def _evaluate_reading(
    organization: Organization,
    block: DecodedBlock,
    number: int,
    reading: Reading,
    rules: tuple[Rule, ...],
    series: SeriesStates,
    outcome: Outcome,
) -> bool:
    value = float(reading.value)
    changed = False
    for rule in rules:
        before = series.get(rule.id, INITIAL)
        raised_id = (
            alarm_id(
                organization.id, organization.epoch, rule.id, reading.device_id, reading.sensor, block.position, number
            )
            if before.alarm_id is None and before.streak + 1 >= rule.raise_after
            else ""
        )
        after, step = evaluate(rule, before, value, reading.at, raised_id)
        if after is before:
            continue
        series[rule.id] = after
        changed = True
        if step in {"breach", "raised"}:
            streak = after.streak or before.streak + 1
            outcome.breaches.append(Breach(reading.device_id, reading.sensor, rule.id, value, streak))
        if step == "raised":
            outcome.transitions.append(_raised(organization, block, reading, rule, after))
        elif step == "cleared":
            outcome.transitions.append(_cleared(organization, block, reading, rule, before))
    return changed


def _raised(
    organization: Organization, block: DecodedBlock, reading: Reading, rule: Rule, state: RuleState
) -> AlarmRaised:
    return AlarmRaised(
        alarm_id=state.alarm_id or "",
        organization_id=organization.id,
        epoch=organization.epoch,
        rule_id=rule.id,
        rule_name=rule.name,
        severity=rule.severity,
        condition=f"{rule.condition}, {rule.raise_after} in a row",
        device_id=reading.device_id,
        sensor=reading.sensor,
        raised_at=reading.at,
        first_breach_at=state.evidence[0][0],
        trigger_value=float(reading.value),
        readings=list(state.evidence),
        position=block.position,
        arrived_at=block.arrived_at,
    )


def _cleared(
    organization: Organization, block: DecodedBlock, reading: Reading, rule: Rule, state: RuleState
) -> AlarmCleared:
    return AlarmCleared(
        alarm_id=state.alarm_id or "",
        organization_id=organization.id,
        epoch=organization.epoch,
        rule_id=rule.id,
        rule_name=rule.name,
        severity=rule.severity,
        condition=f"{rule.condition}, {rule.raise_after} in a row",
        device_id=reading.device_id,
        sensor=reading.sensor,
        cleared_at=reading.at,
        value=float(reading.value),
        position=block.position,
        arrived_at=block.arrived_at,
    )

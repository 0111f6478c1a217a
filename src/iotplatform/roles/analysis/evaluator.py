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
from iotplatform.runtime.pace import Pace

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


def pack_states(states: SeriesStates) -> bytes:
    return _encoder.encode(states) if states else b""


class Evaluation:
    """A partition's blocks through the engine in stream order, in slices of any size.

    `states` holds every wanted series and is changed in place.
    """

    def __init__(self, organization: Organization, index: RuleIndex, states: dict[bytes, SeriesStates]) -> None:
        self._organization = organization
        self._index = index
        self._states = states
        self._changed: set[bytes] = set()
        self.outcome = Outcome()

    def feed(self, block: DecodedBlock, first: int = 0, end: int | None = None) -> None:
        """The readings from number `first` to before number `end`."""
        matching, states = self._index.matching, self._states
        for number, reading in enumerate(block.readings[first:end], first):
            rules = matching(reading.sensor)
            if not rules or isinstance(reading.value, str):
                continue
            key = series_key(reading.device_id, reading.sensor)
            if _evaluate_reading(self._organization, block, number, reading, rules, states[key], self.outcome):
                self._changed.add(key)

    def pack(self, limit: int | None = None) -> int:
        """Put up to `limit` of the changed states into the outcome, forgetting those at the beginning; how many."""
        count = len(self._changed) if limit is None else min(limit, len(self._changed))
        for _ in range(count):
            key = self._changed.pop()
            kept = {rule_id: state for rule_id, state in self._states[key].items() if state is not INITIAL}
            self._states[key] = kept
            self.outcome.states[key] = pack_states(kept)
        return count


def evaluate_blocks(
    organization: Organization,
    blocks: Sequence[DecodedBlock],
    index: RuleIndex,
    states: dict[bytes, SeriesStates],
) -> Outcome:
    """Everything at once, for as many readings as the caller's time allows."""
    evaluation = Evaluation(organization, index, states)
    for block in blocks:
        evaluation.feed(block)
    evaluation.pack()
    return evaluation.outcome


async def evaluate_in_slices(evaluation: Evaluation, blocks: Sequence[DecodedBlock], pace: Pace) -> Outcome:
    """The same, giving way to the rest of the process in between."""
    for block in blocks:
        for first in range(0, len(block.readings), pace.steps):
            end = min(first + pace.steps, len(block.readings))
            evaluation.feed(block, first, end)
            await pace.done(end - first)
    while packed := evaluation.pack(pace.steps):
        await pace.done(packed)
    return evaluation.outcome


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
        condition=rule.summary,
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
        condition=rule.summary,
        device_id=reading.device_id,
        sensor=reading.sensor,
        cleared_at=reading.at,
        value=float(reading.value),
        position=block.position,
        arrived_at=block.arrived_at,
    )

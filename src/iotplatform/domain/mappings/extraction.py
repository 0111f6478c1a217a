"""From a message below a gateway's topic to readings, by the mappings of its organization."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence
from collections.abc import Mapping as Lookup
from typing import Any, Final

from iotplatform.domain.identifiers import device_id_of
from iotplatform.domain.mappings.mapping import Mapping, Pick, TopicRule
from iotplatform.domain.mappings.patterns import MAX_LEVELS, compile_path, compile_topic, fill
from iotplatform.domain.payloads.admission import Decoded, Sender, admit
from iotplatform.domain.payloads.draft import MAX_DEPTH, MAX_FIELD, OUT_OF_RANGE, Draft
from iotplatform.domain.payloads.json_shapes import decode_json
from iotplatform.domain.reading import Value
from iotplatform.domain.timestamps import parse_timestamp
from iotplatform.errors import Rejected

MAX_LEAVES: Final = 5_000
MAX_PATH: Final = 512
MAX_TOPIC: Final = 1_000
# How many times a value of one message is held against a pattern: with most values and most patterns that there may
# be, it would keep all the other messages waiting for seconds.
MAX_LOOKS: Final = 50_000
_number = re.compile(r"\s*[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?\s*", re.ASCII)


class _CompiledPick:
    __slots__ = ("path", "pick")

    def __init__(self, pick: Pick) -> None:
        self.pick = pick
        self.path = compile_path(pick.path)


class _CompiledRule:
    __slots__ = ("gateways", "ignored", "picks", "rule", "topic")

    def __init__(self, rule: TopicRule, gateways: frozenset[str]) -> None:
        self.rule = rule
        self.gateways = gateways
        self.topic = compile_topic(rule.topic)
        self.picks = [_CompiledPick(pick) for pick in rule.pick]
        self.ignored = [compile_path(path) for path in rule.ignore]


class Extraction:
    """The mappings of one organization, compiled. Those that are switched off are left out."""

    def __init__(self, mappings: Sequence[Mapping]) -> None:
        self._rules = [
            _CompiledRule(rule, frozenset(mapping.gateways))
            for mapping in mappings
            if mapping.enabled
            for rule in mapping.rules
        ]

    def extract(
        self, organization_id: str, gateway: str, topic: str, body: bytes, *, arrived_at: int
    ) -> Decoded | None:
        """What a message says, whose `topic` is given below `iot/{org}/{gateway}/`.

        None when no rule is for this topic. A rule may want nothing of a message: then there are no readings and
        nothing is bad. What can't be read is bad, with the body as its source.
        """
        levels = topic.split("/")
        if self._rules and (len(levels) > MAX_LEVELS or len(topic) > MAX_TOPIC):
            detail = f"the topic is longer than {MAX_LEVELS} levels or {MAX_TOPIC} characters"
            return admit([Draft.unreadable(None, body, detail)], arrived_at, Sender(organization_id))
        for compiled in self._rules:
            if compiled.gateways and gateway not in compiled.gateways:
                continue
            found = compiled.topic.caught(levels)
            if found is not None:
                if compiled.rule.ignore_topic:
                    return Decoded(organization_id)
                caught = {**found, "gateway": gateway}
                draft = _draft(compiled, caught, body)
                if not draft.values and not draft.faults:
                    return Decoded(organization_id)
                return admit([draft], arrived_at, Sender(organization_id))
        return None


def _draft(compiled: _CompiledRule, caught: Lookup[str, str], body: bytes) -> Draft:
    rule = compiled.rule
    name = fill(rule.device, caught)
    device_id = device_id_of(name)
    draft = Draft(None, body, device_id=device_id, device_name=name if name != device_id else None)
    try:
        tree = _payload(rule, body)
    except Rejected as error:
        return Draft.unreadable(None, body, error.detail, malformed=True)
    leaves = dict(_leaves(draft, tree))
    if rule.time is not None and rule.time in leaves:
        _take_time(draft, rule.time, leaves.pop(rule.time))
    if len(leaves) * (len(compiled.ignored) + len(compiled.picks)) > MAX_LOOKS:
        draft.blame(None, f"holds {len(leaves)} values, which are too many for all that the mapping picks and ignores")
        return draft
    for path, leaf in leaves.items():
        parts = path.split(".")
        if any(ignored.caught(parts) is not None for ignored in compiled.ignored):
            continue
        sensor, unit = _sensor_of(compiled, path, parts, caught)
        value = _value_of(rule, leaf)
        if sensor is None or value is None:
            continue
        if isinstance(value, float) and not math.isfinite(value):
            draft.blame(path or None, OUT_OF_RANGE)
        elif sensor in draft.values:
            draft.blame(path, f"is a second value for the sensor {sensor[:MAX_FIELD]}")
        else:
            draft.values[sensor] = value
            if unit:
                draft.units[sensor] = unit
    return draft


def _payload(rule: TopicRule, body: bytes) -> Any:
    if rule.payload != "text":
        try:
            return decode_json(body)
        except Rejected:
            if rule.payload == "json":
                raise
    try:
        return body.decode()
    except UnicodeDecodeError as error:
        raise Rejected("malformed", f"the body is neither JSON nor text: {error}") from None


def _leaves(draft: Draft, tree: Any) -> Iterator[tuple[str, Any]]:
    """Values by their dotted paths; elements of arrays by their numbers. The path of a bare value is empty."""
    stack = [("", tree, 0)]
    count = 0
    while stack:
        path, node, depth = stack.pop()
        if isinstance(node, dict | list):
            if depth >= MAX_DEPTH:
                draft.blame(path, f"is nested deeper than {MAX_DEPTH} levels")
                continue
            count += len(node)
            if count > MAX_LEAVES:
                draft.blame(path or None, f"holds more than {MAX_LEAVES} values")
                return
            items = [(str(key), value) for key, value in (node.items() if isinstance(node, dict) else enumerate(node))]
            if any(len(path) + len(key) > MAX_PATH for key, _ in items):
                draft.blame(path or None, f"has a name in it that makes a path of more than {MAX_PATH} characters")
                return
            stack += reversed([(f"{path}.{key}" if path else key, value, depth + 1) for key, value in items])
        elif node is not None:
            yield path, node


def _take_time(draft: Draft, path: str, leaf: Any) -> None:
    draft.time_field = path
    try:
        draft.at = parse_timestamp(leaf)
    except (ValueError, TypeError, OverflowError) as error:
        draft.blame(path, str(error))


def _sensor_of(
    compiled: _CompiledRule, path: str, parts: list[str], caught: Lookup[str, str]
) -> tuple[str | None, str | None]:
    if not path:
        return fill(compiled.rule.sensor, caught), None
    if not compiled.picks:
        return path, None
    for known in compiled.picks:
        found = known.path.caught(parts)
        if found is not None:
            numbers = {str(number): text for number, text in enumerate(found, 1)}
            return fill(known.pick.sensor, {**caught, **numbers, "path": path}), known.pick.unit
    return None, None


def _value_of(rule: TopicRule, leaf: Any) -> Value | None:
    """None for what is not wanted."""
    if isinstance(leaf, bool):
        return leaf
    if isinstance(leaf, str):
        if leaf in rule.values:
            return rule.values[leaf]
        if _number.fullmatch(leaf):
            return float(leaf)
        return leaf if rule.texts else None
    try:
        return float(leaf)
    except OverflowError:
        return math.inf

"""A mapping as people write it: which topics, which device, which parts of the payload become which sensors."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Final, Literal

import msgspec

from iotplatform.domain.identifiers import identifier_fault, sensor_fault
from iotplatform.domain.mappings.patterns import (
    MAX_PATTERN,
    WrongPattern,
    compile_path,
    compile_topic,
    names_caught,
    slots_of,
)
from iotplatform.domain.reading import Value
from iotplatform.errors import Fault

MAX_RULES: Final = 50
MAX_PICKS: Final = 200
MAX_WORDS: Final = 100

Text = Annotated[str, msgspec.Meta(min_length=1, max_length=MAX_PATTERN)]
Words = Annotated[dict[str, Value], msgspec.Meta(max_length=MAX_WORDS)]
Payload = Literal["auto", "json", "text"]


class Pick(msgspec.Struct, frozen=True, omit_defaults=True, forbid_unknown_fields=True):
    """Values at `path` belong to `sensor`, a template of `{path}`, what the path caught and what the topic caught."""

    path: Text
    sensor: Text = "{path}"
    unit: Annotated[str, msgspec.Meta(max_length=64)] | None = None


class TopicRule(msgspec.Struct, frozen=True, omit_defaults=True, forbid_unknown_fields=True):
    """What is done with the messages of some topics, given below `iot/{org}/{gateway}/`.

    `device` and `sensor` are templates of `{gateway}` and of what the topic caught; `sensor` is for a payload that is a
    bare value. Without `pick` every number and boolean of a payload is a value. `values` says what words stand for;
    other texts are left out unless `texts` keeps them. With `ignore_topic` nothing of these messages is wanted.
    """

    topic: Text
    ignore_topic: bool = False
    device: Text = "{device}"
    payload: Payload = "auto"
    sensor: Text = "value"
    time: Text | None = None
    pick: Annotated[tuple[Pick, ...], msgspec.Meta(max_length=MAX_PICKS)] = ()
    ignore: Annotated[tuple[Text, ...], msgspec.Meta(max_length=MAX_PICKS)] = ()
    values: Words = {}
    texts: bool = False


class Mapping(msgspec.Struct, frozen=True, omit_defaults=True, forbid_unknown_fields=True):
    """The first rule whose topic fits decides. `gateways` absent: it holds for all of them."""

    id: str
    name: str
    rules: Annotated[tuple[TopicRule, ...], msgspec.Meta(min_length=1, max_length=MAX_RULES)]
    enabled: bool = True
    gateways: Annotated[tuple[str, ...], msgspec.Meta(max_length=1_000)] = ()


def mapping_faults(mapping: Mapping) -> Iterator[Fault]:
    """Everything that is wrong with a mapping whose fields have the right types."""
    for number, gateway in enumerate(mapping.gateways):
        if fault := identifier_fault(gateway):
            yield Fault(fault, field=f"gateways[{number}]")
    for number, rule in enumerate(mapping.rules):
        yield from _rule_faults(rule, f"rules[{number}]")


def _rule_faults(rule: TopicRule, place: str) -> Iterator[Fault]:
    if fault := _fault_of(compile_topic, rule.topic):
        yield Fault(fault, field=f"{place}.topic")
        return
    if rule.ignore_topic:
        return
    caught = names_caught(rule.topic) | {"gateway"}
    yield from _template_faults(rule.device, caught, f"{place}.device")
    yield from _template_faults(rule.sensor, caught, f"{place}.sensor")
    for number, path in enumerate(rule.ignore):
        if fault := _fault_of(compile_path, path):
            yield Fault(fault, field=f"{place}.ignore[{number}]")
    for number, pick in enumerate(rule.pick):
        if fault := _fault_of(compile_path, pick.path):
            yield Fault(fault, field=f"{place}.pick[{number}].path")
            continue
        numbers = {str(index + 1) for index in range(compile_path(pick.path).groups)}
        yield from _template_faults(pick.sensor, caught | {"path"} | numbers, f"{place}.pick[{number}].sensor")
        if pick.unit and (fault := sensor_fault(pick.unit)):
            yield Fault(fault, field=f"{place}.pick[{number}].unit")


def _template_faults(template: str, known: set[str], field: str) -> Iterator[Fault]:
    try:
        unknown = slots_of(template) - known
    except WrongPattern as error:
        yield Fault(str(error), field=field)
        return
    if unknown:
        yield Fault(f"nothing catches {{{min(unknown)}}}; there are {', '.join(sorted(known))}", field=field)


def _fault_of(compile_it: object, pattern: str) -> str | None:
    assert callable(compile_it)  # noqa: S101 - one of two functions of `patterns`
    try:
        compile_it(pattern)
    except WrongPattern as error:
        return str(error)
    return None

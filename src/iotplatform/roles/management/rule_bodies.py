"""Rules as they come in and go out."""

from __future__ import annotations

import uuid
from typing import Annotated, Final

import msgspec

from iotplatform.domain.conditions.comparison import Seconds
from iotplatform.domain.rule import Condition, Devices, Late, Positive, Rule, Severity, rule_faults
from iotplatform.errors import Fault, Rejected
from iotplatform.roles.management.fields import Body, Identifier, Name, Tag

# What stands beside the ids of rules in a path.
_WORDS: Final = frozenset({"backtest"})


class RuleDevices(Body, frozen=True, omit_defaults=True):
    """The devices with one of these `ids`, or those that have all of these `tags`."""

    ids: Annotated[tuple[Identifier, ...], msgspec.Meta(max_length=1_000)] = ()
    tags: Annotated[tuple[Tag, ...], msgspec.Meta(max_length=50)] = ()


class SharedRule(Body, frozen=True):
    """A rule as it is to be, in whichever organization."""

    name: Name
    sensor: str
    condition: Condition
    id: Identifier | None = None
    severity: Severity = "major"
    enabled: bool = True
    raise_after: Positive = 0
    clear_after: Positive = 1
    devices: RuleDevices | None = None
    for_s: Seconds | None = None
    max_gap_s: Seconds | None = None
    late: Late = "evaluate"
    latched: bool = False
    reminder_s: Seconds | None = None

    def faults(self) -> list[Fault]:
        return [Fault(detail, field=field) for field, detail in rule_faults(self.meant("", self.id or "new"))]

    def meant(self, organization_id: str, rule_id: str) -> Rule:
        chosen = self.devices
        return Rule(
            id=rule_id,
            organization_id=organization_id,
            name=self.name,
            sensor=self.sensor,
            condition=self.condition,
            severity=self.severity,
            enabled=self.enabled,
            raise_after=self.raise_after,
            clear_after=self.clear_after,
            devices=None if chosen is None else Devices(_once(chosen.ids), _once(chosen.tags)),
            for_s=self.for_s,
            max_gap_s=self.max_gap_s,
            late=self.late,
            latched=self.latched,
            reminder_s=self.reminder_s,
        )


class RuleBody(SharedRule, frozen=True):
    """A rule of an organization; what an answer says of one can be sent back as it is."""

    organization_id: str | None = None

    def rule(self, organization_id: str, rule_id: str | None = None) -> Rule:
        """The rule that is meant; `rule_id` is the one in the path, if there is one.

        Raises:
            Rejected: it could not be used, with everything that is wrong.
        """
        faults = self.faults()
        if rule_id is not None and self.id not in {None, rule_id}:
            faults.append(Fault("must be the id in the path, or be left out", field="id"))
        if self.id in _WORDS or rule_id in _WORDS:
            faults.append(Fault(f"must not be {self.id or rule_id!r}, which means something else in paths", field="id"))
        if self.organization_id not in {None, organization_id}:
            faults.append(Fault("must be the organization in the path, or be left out", field="organization_id"))
        if faults:
            raise Rejected("invalid", "the rule is not valid", faults=tuple(faults))
        return self.meant(organization_id, rule_id or self.id or str(uuid.uuid4()))


class RuleAnswer(Rule, frozen=True):
    """`pack` is given when the rule comes from a rule pack."""

    pack: str | msgspec.UnsetType = msgspec.UNSET


def answer(rule: Rule, pack_id: str | None) -> RuleAnswer:
    fields = msgspec.structs.asdict(rule)
    if pack_id is not None:
        fields["pack"] = pack_id
    return RuleAnswer(**fields)


def _once(texts: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(texts))

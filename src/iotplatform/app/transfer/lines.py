"""What lines of an export have in common."""

from __future__ import annotations

import datetime as dt
import uuid
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Annotated, Any, Final, TypeVar

import msgspec

from iotplatform.domain.limit import DeviceLimits, Limits, rate_faults
from iotplatform.errors import Fault, Rejected
from iotplatform.roles.management.fields import Body, Identifier, Tag
from iotplatform.roles.management.requests import PROSE_PATTERN, TEXT_PATTERN
from iotplatform.roles.management.rule_bodies import RuleBody

Moment = Annotated[dt.datetime, msgspec.Meta(tz=True)]
Text = Annotated[str, msgspec.Meta(max_length=2_000, pattern=TEXT_PATTERN)]
Prose = Annotated[str, msgspec.Meta(max_length=20_000, pattern=PROSE_PATTERN)]
Sensor = Annotated[str, msgspec.Meta(min_length=1, max_length=512, pattern=TEXT_PATTERN)]
Natural = Annotated[int, msgspec.Meta(ge=0, lt=1 << 31)]
Strings = Annotated[tuple[Identifier, ...], msgspec.Meta(max_length=1_000)]
Tags = Annotated[tuple[Tag, ...], msgspec.Meta(max_length=1_000)]


T = TypeVar("T")
MOST_DEPTH: Final = 200
NO_VERSIONS: Final[Mapping[str, int]] = MappingProxyType({})


class Destination(msgspec.Struct, frozen=True):
    """The organization that is made. `renamed` gives an alarm, a delivery or a command its id there.

    Ids of these are one platform's: kept as they are, a file could take those that others' alarms will have.
    """

    organization_id: str
    renamed: Callable[[uuid.UUID], uuid.UUID]
    channels_off: bool = False
    # Of the packs that the organization has.
    pack_versions: Mapping[str, int] = NO_VERSIONS


class Line(Body, frozen=True, kw_only=True):
    def check(self) -> None:
        """Raises:
        Rejected: the API would not take it.
        """

    def arranged(self, to: Destination) -> Line:  # noqa: ARG002
        """As it is written down there.

        Raises:
            Rejected: it can't be.
        """
        return self


def converted(value: Any, type_: type[T]) -> T:
    """Raises:
    Rejected: it is none.
    """
    try:
        return msgspec.convert(value, type_)
    except msgspec.ValidationError as error:
        raise Rejected("invalid", str(error)) from error


def check_plain(field: str, value: Any, depth: int = 0) -> None:
    """What was only told, by a device or by the audit, has no bounds but those of PostgreSQL and of Python.

    Raises:
        Rejected: it is beyond them.
    """
    if depth > MOST_DEPTH:
        raise Rejected("invalid", f"{field}: must not be nested deeper than {MOST_DEPTH} levels")
    match value:
        case str() if "\x00" in value:
            raise Rejected("invalid", f"{field}: must not contain the character NUL")
        case dict():
            for part in (*value, *value.values()):
                check_plain(field, part, depth + 1)
        case list():
            for part in value:
                check_plain(field, part, depth + 1)
        case _:
            pass


def check_rates(limits: Limits | DeviceLimits) -> None:
    faults = tuple(Fault(sentence, field=name) for name, sentence in rate_faults(limits))
    if faults:
        raise Rejected("invalid", "the limits are not valid", faults=faults)


def rule_for(definition: dict[str, Any], rule_id: str, organization_id: str) -> dict[str, Any]:
    """A rule's definition as that organization has it."""
    own = {name: value for name, value in definition.items() if name != "organization_id"}
    rule = converted(own, RuleBody).rule(organization_id, rule_id)
    return dict(msgspec.to_builtins(rule))

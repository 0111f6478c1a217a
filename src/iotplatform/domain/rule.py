"""Rules: what makes readings of a series an alarm."""

from __future__ import annotations

import functools
import operator
import re
from collections.abc import Callable
from fnmatch import translate
from typing import Annotated, Literal

import msgspec

Severity = Literal["critical", "major", "minor", "warning", "info"]
Operator = Literal[">", ">=", "<", "<=", "==", "!="]
Positive = Annotated[int, msgspec.Meta(ge=1, le=1_000)]

COMPARISONS: dict[str, Callable[[float, float], bool]] = {
    ">": operator.gt,
    ">=": operator.ge,
    "<": operator.lt,
    "<=": operator.le,
    "==": operator.eq,
    "!=": operator.ne,
}


class Threshold(msgspec.Struct, frozen=True, tag="threshold", tag_field="type", omit_defaults=True):
    """Met when `reading <operator> value` holds."""

    operator: Operator
    value: float

    def met(self, value: float) -> bool:
        return COMPARISONS[self.operator](value, self.value)

    def __str__(self) -> str:
        return f"{self.operator} {self.value:g}"


class Rule(msgspec.Struct, frozen=True):
    """`sensor` is a glob; `raise_after` breaches in a row raise, `clear_after` good readings in a row clear."""

    id: str
    organization_id: str
    name: str
    sensor: str
    condition: Threshold
    severity: Severity = "major"
    enabled: bool = True
    raise_after: Positive = 3
    clear_after: Positive = 1

    def matches(self, sensor: str) -> bool:
        return self.enabled and _glob(self.sensor).match(sensor) is not None


@functools.lru_cache(maxsize=4_096)
def _glob(pattern: str) -> re.Pattern[str]:
    return re.compile(translate(pattern))

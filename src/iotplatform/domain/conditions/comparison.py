"""Comparing a reading's value: what the conditions have in common."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Annotated, Final, Literal

import msgspec

Simple = Literal[">", ">=", "<", "<=", "==", "!="]
Operator = Literal[">", ">=", "<", "<=", "==", "!=", "inside", "outside"]
# Of a value; what else a judge is shown it ignores, so that a test can be one (`judgement.py`).
Test = Callable[..., bool]
# A field of the rule, and what is wrong with it.
Fault = tuple[str, str]

MOST_SECONDS: Final = 10 * 365 * 86_400.0
Seconds = Annotated[float, msgspec.Meta(gt=0, le=MOST_SECONDS)]
Count = Annotated[int, msgspec.Meta(ge=1, le=1_000)]

RANGES: Final = ("inside", "outside")


def simple_test(operator: str, limit: float) -> Test:
    """`reading <operator> limit`. Closures, because a look-up of the operator for every reading takes longer."""
    match operator:
        case ">":
            return lambda value, _at=0, _last=None: value > limit
        case ">=":
            return lambda value, _at=0, _last=None: value >= limit
        case "<":
            return lambda value, _at=0, _last=None: value < limit
        case "<=":
            return lambda value, _at=0, _last=None: value <= limit
        case "==":
            return lambda value, _at=0, _last=None: value == limit
        case _:
            return lambda value, _at=0, _last=None: value != limit


def comparison_test(operator: str, value: float | None, low: float | None, high: float | None) -> Test:
    """Whether a value meets it. `inside` includes its bounds, and `outside` is its negation."""
    if operator in RANGES:
        least, most = low or 0.0, high or 0.0
        if operator == "inside":
            return lambda found, _at=0, _last=None: least <= found <= most
        return lambda found, _at=0, _last=None: not least <= found <= most
    return simple_test(operator, value or 0.0)


def comparison_text(operator: str, value: float | None, low: float | None, high: float | None) -> str:
    if operator in RANGES:
        return f"{operator} {low:g} to {high:g}"
    return f"{operator} {value:g}"


def comparison_faults(operator: str, value: float | None, low: float | None, high: float | None) -> Iterator[Fault]:
    if operator in RANGES:
        yield from _range_faults(operator, value, low, high)
        return
    if value is None:
        yield "condition.value", f"is missing: the operator {operator!r} compares with it"
    else:
        yield from finite_faults("condition.value", value)
    for name, bound in (("low", low), ("high", high)):
        if bound is not None:
            yield f"condition.{name}", f"belongs to the operators 'inside' and 'outside', not to {operator!r}"


def _range_faults(operator: str, value: float | None, low: float | None, high: float | None) -> Iterator[Fault]:
    if value is not None:
        yield "condition.value", f"does not go with the operator {operator!r}: give 'low' and 'high'"
    for name, bound in (("low", low), ("high", high)):
        if bound is None:
            yield f"condition.{name}", f"is missing: the operator {operator!r} needs 'low' and 'high'"
        else:
            yield from finite_faults(f"condition.{name}", bound)
    if low is not None and high is not None and low > high:
        yield "condition.low", f"must not be above 'high', and {low:g} is above {high:g}"


def finite_faults(field: str, number: float) -> Iterator[Fault]:
    if not math.isfinite(number):
        yield field, "must be a finite number"

"""A value beyond a limit, or inside or outside of a range."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

import msgspec

from iotplatform.domain.conditions.comparison import (
    Fault,
    Operator,
    comparison_faults,
    comparison_test,
    comparison_text,
    finite_faults,
    simple_test,
)
from iotplatform.domain.conditions.judgement import BREACH, GOOD, NEITHER, Counted, Judge

_RISING: Final = (">", ">=")
_FALLING: Final = ("<", "<=")


class Threshold(
    msgspec.Struct,
    Counted,
    frozen=True,
    tag="threshold",
    tag_field="type",
    omit_defaults=True,
    forbid_unknown_fields=True,
):
    """Met when `reading <operator> value` holds, or lies `inside` or `outside` of `low` to `high`.

    With `clear_value` a reading is good only when it doesn't meet the same comparison with that value either.
    """

    operator: Operator
    value: float | None = None
    clear_value: float | None = None
    low: float | None = None
    high: float | None = None

    def met(self, value: float) -> bool:
        """For one value; `judge` is made once for many."""
        return comparison_test(self.operator, self.value, self.low, self.high)(value)

    def judge(self) -> Judge:
        met = comparison_test(self.operator, self.value, self.low, self.high)
        if self.clear_value is None:
            return met  # True is BREACH, and False GOOD
        still_met = simple_test(self.operator, self.clear_value)
        return lambda value, _at, _last: BREACH if met(value) else NEITHER if still_met(value) else GOOD

    def faults(self) -> Iterator[Fault]:
        yield from comparison_faults(self.operator, self.value, self.low, self.high)
        if self.clear_value is None:
            return
        yield from finite_faults("condition.clear_value", self.clear_value)
        if self.operator not in _RISING + _FALLING:
            yield "condition.clear_value", f"goes with the operators >, >=, < and <=, not with {self.operator!r}"
        elif self.value is not None:
            is_wrong = self.clear_value > self.value if self.operator in _RISING else self.clear_value < self.value
            if is_wrong:
                side = "above" if self.operator in _RISING else "below"
                yield (
                    "condition.clear_value",
                    f"must not lie {side} 'value': with {self.operator!r} it is {side} that readings breach",
                )

    def __str__(self) -> str:
        text = comparison_text(self.operator, self.value, self.low, self.high)
        return text if self.clear_value is None else f"{text} (good when not {self.operator} {self.clear_value:g})"

"""Some of the last readings, in a row or not."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, ClassVar, Final

import msgspec

from iotplatform.domain.conditions.comparison import (
    Fault,
    Operator,
    comparison_faults,
    comparison_test,
    comparison_text,
)
from iotplatform.domain.conditions.judgement import BREACH, Counted, Judge, Point, Tally

# Those that meet the comparison are kept with the state, and shown with the alarm.
MOST_READINGS: Final = 100
Few = Annotated[int, msgspec.Meta(ge=1, le=MOST_READINGS)]


class MOfN(
    msgspec.Struct, Counted, frozen=True, tag="m_of_n", tag_field="type", omit_defaults=True, forbid_unknown_fields=True
):
    """Raises when `m` of the series' last `n` readings, this one included, meet the comparison."""

    default_raise_after: ClassVar[int] = 1

    m: Few
    n: Few
    operator: Operator
    value: float | None = None
    low: float | None = None
    high: float | None = None

    def judge(self) -> Judge:
        return comparison_test(self.operator, self.value, self.low, self.high)  # True is BREACH, and False GOOD

    def tally(self) -> Tally:
        most, wanted = self.n, self.m

        def tally(
            met: tuple[Point, ...], ages: tuple[int, ...], verdict: int, point: Point
        ) -> tuple[tuple[Point, ...], tuple[int, ...], bool]:
            older = tuple([age + 1 for age in ages if age + 1 < most])
            still = met[len(ages) - len(older) :]
            if verdict != BREACH:
                return still, older, False
            return (*still, point), (*older, 0), len(still) + 1 >= wanted

        return tally

    def faults(self) -> Iterator[Fault]:
        yield from comparison_faults(self.operator, self.value, self.low, self.high)
        if self.m > self.n:
            yield "condition.m", f"must not be more than 'n': {self.m} of {self.n} readings can't breach"

    def __str__(self) -> str:
        return comparison_text(self.operator, self.value, self.low, self.high)

"""A value that changes too fast."""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar, Final

import msgspec

from iotplatform.domain.conditions.comparison import Fault, Simple, finite_faults, simple_test
from iotplatform.domain.conditions.judgement import BREACH, GOOD, Counted, Judge, Point

SECOND_US: Final = 1_000_000


class Rate(msgspec.Struct, Counted, frozen=True, tag="rate", tag_field="type", forbid_unknown_fields=True):
    """Met when the change per second since the series' reading before compares so with `per_s`.

    Without a reading before, or without time in between, it is not met.
    """

    looks_back: ClassVar[bool] = True

    operator: Simple
    per_s: float

    def judge(self) -> Judge:
        met = simple_test(self.operator, self.per_s)

        def judge(value: float, at: int, last: Point | None) -> int:
            if last is None or at <= last[0]:
                return GOOD
            return BREACH if met((value - last[1]) / ((at - last[0]) / SECOND_US)) else GOOD

        return judge

    def faults(self) -> Iterator[Fault]:
        yield from finite_faults("condition.per_s", self.per_s)

    def __str__(self) -> str:
        return f"{self.operator} {self.per_s:g} per second"

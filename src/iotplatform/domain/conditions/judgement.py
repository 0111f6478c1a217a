"""What a condition says of one reading."""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar, Final

# Of a series at a time (microseconds): what an alarm shows of it, and what a rate compares with.
Point = tuple[int, float]

BREACH: Final = 1
GOOD: Final = 0
NEITHER: Final = -1

# For conditions that don't count breaches in a row: of the breaches counted so far, how many readings ago each was, the
# judgement of this reading and the reading itself: the first two with it, and whether they are enough to raise.
Tally = Callable[
    [tuple[Point, ...], tuple[int, ...], int, Point],
    tuple[tuple[Point, ...], tuple[int, ...], bool],
]

# Of a reading's value and time, and the series' reading before it when the condition `looks_back`.
Judge = Callable[[float, int, Point | None], int]


class Counted:
    """What most conditions say of how their readings add up: breaches in a row, each judged by itself.

    `default_raise_after` is the rule's `raise_after` when it names none. A condition that `looks_back` is shown the
    series' reading before. `silence_s`: for how long a series has to be silent, where that is the condition.
    """

    __slots__ = ()

    default_raise_after: ClassVar[int] = 3
    looks_back: ClassVar[bool] = False

    @property
    def silence_s(self) -> float | None:
        return None

    def tally(self) -> Tally | None:
        return None

"""What a condition says of one reading."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

# Of a series at a time (microseconds): what an alarm shows of it, and what a rate compares with.
Point = tuple[int, float]

BREACH: Final = 1
GOOD: Final = 0
NEITHER: Final = -1

# Of a reading's value and time, and the series' reading before it when the condition `looks_back`.
Judge = Callable[[float, int, Point | None], int]

"""What is computed of the readings in an interval.

`count`, `first` and `last` take every kind of value. The others look at numbers, among which booleans are 0 and 1; text
is passed over, and an interval with nothing else is like an empty one.
"""

from __future__ import annotations

import re
from typing import Final

import msgspec

NAMES: Final = ("count", "min", "max", "avg", "sum", "first", "last")
_PERCENTILE: Final = re.compile(r"p([0-9]{1,2}|100)(\.[0-9]{1,6})?")


class Aggregate(msgspec.Struct, frozen=True):
    """`share`: of a percentile, between 0 and 1."""

    name: str
    share: float | None = None


def parse_aggregate(text: str) -> Aggregate:
    """Raises ValueError with a sentence for the sender."""
    if text in NAMES:
        return Aggregate(text)
    percentile = _PERCENTILE.fullmatch(text)
    if percentile is None or float(text[1:]) > 100:
        raise ValueError(f"must be one of {', '.join(NAMES)}, or a percentile such as p50, p95 or p99.9")
    return Aggregate("percentile", float(text[1:]) / 100)

"""What InfluxDB computes otherwise than it is meant: values of calendar intervals, and percentiles."""

from __future__ import annotations

import importlib
import math
from array import array
from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Final

from iotplatform.domain.querying.store import beyond_numbers
from iotplatform.domain.reading import Value

# More than these are sorted outside of the event loop, by NumPy, which lets it go on meanwhile.
SORTED_HERE: Final = 2_000

Part = tuple[int, Any]

_JOINED: Final[dict[str, Callable[[Any, Any], Any]]] = {
    "count": lambda before, part: before + part,
    "sum": lambda before, part: before + part,
    "avg": lambda before, part: (before[0] + part[0], before[1] + part[1]),
    "min": min,
    "max": max,
    "first": lambda before, _: before,
    "last": lambda _, part: part,
}


def common_step(starts: Sequence[int]) -> int:
    """The longest interval, counted from 1970, of which these are made: most often an hour, seldom half a minute."""
    return math.gcd(*starts)


def start_in(starts: Sequence[int], at: int) -> int:
    return starts[bisect_right(starts, at) - 1]


def joined(name: str, parts: Iterable[Part], starts: Sequence[int]) -> Iterator[tuple[int, Value]]:
    """The values of longer intervals out of those of their parts, in order; of an average a part is sum and count.

    Raises:
        Rejected: no number can hold one.
    """
    join = _JOINED[name]
    start, value = -1, None
    for at, part in parts:
        into = start_in(starts, at)
        if into == start:
            value = join(value, part)
            continue
        if value is not None:
            yield start, _result(name, value)
        start, value = into, part
    if value is not None:
        yield start, _result(name, value)


def _result(name: str, value: Any) -> Value:
    found: Value = value[0] / value[1] if name == "avg" else value
    if isinstance(found, float) and math.isinf(found):
        raise beyond_numbers()
    return found


def percentile(values: array[float], share: float) -> float:
    """Between the two nearest values in proportion."""
    place = share * (len(values) - 1)
    low, high = math.floor(place), math.ceil(place)
    if len(values) <= SORTED_HERE:
        ordered: Any = sorted(values)
    else:
        numpy = importlib.import_module("numpy")
        ordered = numpy.partition(numpy.frombuffer(values, numpy.float64), (low, high))
    below, above = float(ordered[low]), float(ordered[high])
    # Not by the difference where it is no number any more.
    between = below + (place - low) * (above - below)
    return between if math.isfinite(between) else below * (1 - place + low) + above * (place - low)

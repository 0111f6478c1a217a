"""How intervals without a value are filled."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator
from typing import Literal

from iotplatform.domain.reading import Value

Fill = Literal["none", "null", "previous", "linear"]
Point = tuple[int, Value | None]


async def filled(
    known: AsyncIterator[tuple[int, Value]],
    fill: Fill,
    first: int,
    until: int,
    after: Callable[[int], int],
    beyond: int | None = None,
) -> AsyncIterator[Point]:
    """The intervals of one series from `first` up to `until`, of which `known` have a value, in order.

    With `beyond` only those that start later: what comes before costs no time, however much it is.
    """
    start, before = first, None
    if beyond is not None:
        start = max(first, after(beyond))
    async for point in known:
        for between in _between(start, point[0], before, point, fill, after):
            yield between
        if beyond is None or point[0] > beyond:
            yield point
            start = after(point[0])
        before = point
    for between in _between(start, until, before, None, fill, after):
        yield between


def _between(
    start: int,
    end: int,
    before: tuple[int, Value] | None,
    behind: tuple[int, Value] | None,
    fill: Fill,
    after: Callable[[int], int],
) -> Iterator[Point]:
    if fill == "none":
        return
    while start < end:
        yield start, _value(start, before, behind, fill)
        start = after(start)


def _value(start: int, before: tuple[int, Value] | None, behind: tuple[int, Value] | None, fill: Fill) -> Value | None:
    if fill == "null" or before is None:
        return None
    if fill == "previous":
        return before[1]
    if behind is None or isinstance(before[1], str) or isinstance(behind[1], str):
        return None
    share = (start - before[0]) / (behind[0] - before[0])
    # Not by the difference: that of two large numbers may be no number any more.
    return before[1] * (1 - share) + behind[1] * share

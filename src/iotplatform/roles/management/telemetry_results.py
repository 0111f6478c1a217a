"""The rows of an answer, made out of what the store gives: gaps are filled and points are chosen here."""

from __future__ import annotations

import asyncio
from array import array
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import aclosing

import msgspec

from iotplatform.domain.querying.gaps import filled
from iotplatform.domain.querying.intervals import LAST_US
from iotplatform.domain.querying.query import TelemetryQuery
from iotplatform.domain.querying.store import AT_ONCE, MOST_CALENDAR, MOST_HELD, Chunk, QueryStore, Row
from iotplatform.domain.reading import Value
from iotplatform.errors import Fault, Rejected
from iotplatform.roles.management.downsampling import chosen

Item = tuple[str, str, int, Value | None]


async def items(store: QueryStore, epoch: int, query: TelemetryQuery, max_rows: int) -> AsyncGenerator[Item, None]:
    """By device, sensor and time, after the place of the page before.

    Raises:
        Rejected: they are more than `max_rows`; raised at the one too many.
    """
    if query.aggregate is not None:
        found = _aggregated(store, epoch, query, max_rows)
    elif query.points is not None:
        found = _points(store, epoch, query)
    else:
        found = _flat(store.readings(epoch, query))
    count = 0
    async with aclosing(found):
        async for item in found:
            # Only of the series where the page before ended: the others are sorted by the database, not as Python does.
            if query.after is not None and item[:2] == query.after[:2] and item[2] <= query.after[2]:
                continue
            count += 1
            if count > max_rows:
                raise too_many(max_rows)
            yield item


async def chunks(
    store: QueryStore, epoch: int, query: TelemetryQuery, max_rows: int
) -> AsyncGenerator[Sequence[Item], None]:
    """The same, many at a time; plain readings as they come, because a step for each would cost more than the rest."""
    if query.aggregate is None and query.points is None and query.after is None:
        count = 0
        async with aclosing(store.readings(epoch, query)) as readings:
            async for chunk in readings:
                count += len(chunk)
                if count > max_rows:
                    raise too_many(max_rows)
                yield chunk
        return
    gathered: list[Item] = []
    async with aclosing(items(store, epoch, query, max_rows)) as rows:
        async for item in rows:
            gathered.append(item)
            if len(gathered) == AT_ONCE:
                yield gathered
                gathered = []
    if gathered:
        yield gathered


def too_many(max_rows: int) -> Rejected:
    detail = (
        f"the result has more than {max_rows} rows (query.max_rows): ask for a shorter range, fewer series, "
        "or longer intervals"
    )
    return Rejected("invalid", detail)


class _Plan(msgspec.Struct, frozen=True):
    """The range, where it is known, and the starts of intervals that have no fixed length."""

    since: int | None
    until: int | None
    starts: list[int] | None = None


async def _aggregated(
    store: QueryStore, epoch: int, query: TelemetryQuery, max_rows: int
) -> AsyncGenerator[Item, None]:
    plan = await _plan(store, epoch, query, max_rows)
    if plan is None:
        return
    async with aclosing(store.aggregates(epoch, query, plan.starts)) as rows:
        interval = query.interval
        if query.fill == "none" or interval is None:
            async for row in _flat(rows):
                yield row
            return
        assert plan.since is not None  # noqa: S101 - known wherever gaps are filled
        assert plan.until is not None  # noqa: S101
        first, series = interval.start(plan.since), _Series(rows)
        while (key := await series.next()) is not None:
            beyond = query.after[2] if query.after is not None and key == query.after[:2] else None
            async for start, value in filled(series.points(), query.fill, first, plan.until, interval.after, beyond):
                yield (*key, start, value)


async def _plan(store: QueryStore, epoch: int, query: TelemetryQuery, max_rows: int) -> _Plan | None:
    """None when nothing can be found."""
    interval, since, until = query.interval, query.since, query.until
    fixed = interval is not None and interval.fixed_us is not None
    if fixed and query.fill == "none":
        return _Plan(since, until)
    if since is None or until is None:
        bounds = await store.bounds(epoch, query)
        if bounds is None:
            return None
        since = bounds[0] if since is None else since
        until = bounds[1] + 1 if until is None else until
    if since >= until:
        return None
    if interval is None:
        return _Plan(since, until, [since])
    until = min(until, LAST_US)
    number = (until - since) // interval.shortest_us
    if query.fill != "none" and number > max_rows + 1:
        raise too_many(max_rows)
    if fixed:
        return _Plan(since, until)
    if number > MOST_CALENDAR:
        fault = Fault(f"divides the range into more than {MOST_CALENDAR} intervals", field="interval")
        raise Rejected("invalid", "the query is not valid", faults=(fault,))
    return _Plan(since, until, list(interval.starts(since, until)))


class _Series:
    """One series after the other, out of chunks of rows."""

    def __init__(self, chunks: AsyncIterator[Chunk]) -> None:
        self._rows = _flat(chunks)
        self._row: Row | None = None

    async def next(self) -> tuple[str, str] | None:
        """The next series; the points of the one before were read to the end."""
        if self._row is None:
            self._row = await anext(self._rows, None)
        return None if self._row is None else self._row[:2]

    async def points(self) -> AsyncIterator[tuple[int, Value]]:
        assert self._row is not None  # noqa: S101 - `next` found it
        key = self._row[:2]
        while self._row is not None and self._row[:2] == key:
            yield self._row[2], self._row[3]
            self._row = await anext(self._rows, None)


async def _flat(chunks: AsyncIterator[Chunk]) -> AsyncGenerator[Row, None]:
    async for chunk in chunks:
        for row in chunk:
            yield row


async def _points(store: QueryStore, epoch: int, query: TelemetryQuery) -> AsyncGenerator[Item, None]:
    assert query.points is not None  # noqa: S101 - what the caller asks for
    async with aclosing(store.readings(epoch, query)) as rows:
        series = _Series(rows)
        while (key := await series.next()) is not None:
            times, values, booleans = array("q"), array("d"), array("b")
            async for at, value in series.points():
                times.append(at)
                values.append(float(value))
                booleans.append(isinstance(value, bool))
                if len(times) > MOST_HELD:
                    detail = (
                        f"{key[1]!r} of {key[0]} has more than {MOST_HELD} readings in this range, the most out "
                        "of which points are chosen: ask for a shorter range, or for an aggregate"
                    )
                    raise Rejected("invalid", detail)
            for index in await asyncio.to_thread(chosen, times, values, query.points):
                value = values[index]
                yield (*key, times[index], bool(value) if booleans[index] else value)

"""Marks of hours whose rollups are not what their readings say: left by whoever writes or removes readings.

A mark is left in the transaction that changes the readings, after `rollup_closing()`, which waits for nobody but the
one who moves the closing time or takes marks away. So who takes a mark away sees all that it stands for.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

import asyncpg

from iotplatform.adapters.postgres.reading_rows import PG_EPOCH_US, RowKey

HOUR_US: Final = 3_600_000_000
MAX_KNOWN: Final = 200_000
# Whatever the session's time zone is.
ORIGIN: Final = "timestamptz '2000-01-01 00:00:00+00'"

CLOSING: Final = "SELECT closing, generation FROM rollup_closing()"
_MARK: Final = """
INSERT INTO rollup_marks (series_id, hour) SELECT * FROM unnest($1::int[], $2::timestamptz[]) ON CONFLICT DO NOTHING
"""

Mark = tuple[int, int]


def mark_removed(statement: str) -> str:
    """A deletion of readings that returns `series_id` and `at`, with the marks that it has to leave; counts its rows.

    To be carried out in a transaction that has called `rollup_closing()` first.
    """
    return f"""
WITH gone AS ({statement}), marked AS (
    INSERT INTO rollup_marks (series_id, hour)
    SELECT DISTINCT series_id, date_bin('1 hour', at, {ORIGIN}) FROM gone ORDER BY 1, 2
    ON CONFLICT DO NOTHING
)
SELECT count(*) FROM gone
"""  # noqa: S608 - ours


class MarkBook:
    """The marks that are known to be there: in a flood of late readings each is left once, not with every commit."""

    def __init__(self) -> None:
        self._generation = -1
        self._known: set[Mark] = set()

    async def leave(
        self, connection: asyncpg.pool.PoolConnectionProxy[asyncpg.Record], rows: Iterable[RowKey]
    ) -> tuple[int, set[Mark]]:
        """Leave marks for rows that are about to be written; what to `learn` when the transaction has been committed.

        The connection has times in microseconds. The first thing in its transaction.
        """
        closing, generation = await connection.fetchrow(CLOSING) or (0, 0)
        closed_us = closing - PG_EPOCH_US
        marks = {(series_id, at - at % HOUR_US) for series_id, at in rows if at < closed_us}
        if marks and generation == self._generation:
            marks -= self._known
        if marks:
            # In one order: two that leave the same ones must not wait for each other.
            ids, hours = zip(*sorted(marks), strict=True)
            await connection.execute(_MARK, ids, [hour + PG_EPOCH_US for hour in hours])
        return generation, marks

    def learn(self, generation: int, marks: set[Mark]) -> None:
        if generation != self._generation or len(self._known) > MAX_KNOWN:
            if generation < self._generation:
                return
            self._known.clear()
            self._generation = generation
        self._known |= marks

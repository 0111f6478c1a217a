"""The seam of the stores that compute: readings, and what is computed of them, as a stream of rows.

Flat memory is the promise: a store hands out rows as they come, whatever there are of them. Whoever asks closes the
generators, and with that the query ends where it runs.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from typing import Final, Protocol

from iotplatform.domain.querying.query import TelemetryQuery
from iotplatform.domain.reading import Value
from iotplatform.errors import Rejected

# Device, sensor, time in microseconds, value.
Row = tuple[str, str, int, Value]
Chunk = list[Row]

AT_ONCE: Final = 1_000
# Calendar intervals are made beforehand, and readings are held while points or percentiles are chosen out of them.
MOST_CALENDAR: Final = 100_000
MOST_HELD: Final = 2_000_000


class QueryStore(Protocol):
    """Every method raises `Unavailable` while the server is away. Series come sorted, and stand together."""

    async def bounds(self, epoch: int, query: TelemetryQuery) -> tuple[int, int] | None:
        """The times of the first and the last reading that are asked for; None when there is none.

        Of all series, those before the place of the page too: every page has to see the same range.
        """

    def readings(self, epoch: int, query: TelemetryQuery) -> AsyncGenerator[Chunk, None]:
        """By device, sensor and time; of points only those that are numbers."""

    def aggregates(self, epoch: int, query: TelemetryQuery, starts: list[int] | None) -> AsyncGenerator[Chunk, None]:
        """By device, sensor and start of the interval; those without a value are left out.

        `starts` are the intervals' where they have no fixed length. Raises `Rejected` when no number can hold a result.
        """


def beyond_numbers() -> Rejected:
    detail = "the result is beyond what a number can hold: choose a shorter interval, or another aggregate"
    return Rejected("invalid", detail)

"""One question about the history of readings, and what bounds the answer."""

from __future__ import annotations

from typing import Annotated

import msgspec

from iotplatform.domain.querying.aggregates import Aggregate
from iotplatform.domain.querying.gaps import Fill
from iotplatform.domain.querying.intervals import Interval


class QueryLimits(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The section `query` of the settings: of each query, and how many of them run at once."""

    deadline_s: Annotated[float, msgspec.Meta(gt=0, le=86_400)] = 60.0
    max_rows: Annotated[int, msgspec.Meta(ge=1, le=1 << 40)] = 10_000_000
    connections: Annotated[int, msgspec.Meta(ge=1, le=100)] = 8
    per_organization: Annotated[int, msgspec.Meta(ge=1, le=100)] = 2


class TelemetryQuery(msgspec.Struct, frozen=True):
    """Readings of some series in [since, until); nothing given means all of them.

    `after` is the place of the last item of the page before. An aggregate without an interval is one over the range.
    """

    device_ids: tuple[str, ...] = ()
    sensors: tuple[str, ...] = ()
    since: int | None = None
    until: int | None = None
    after: tuple[str, str, int] | None = None
    aggregate: Aggregate | None = None
    interval: Interval | None = None
    fill: Fill = "none"
    points: int | None = None

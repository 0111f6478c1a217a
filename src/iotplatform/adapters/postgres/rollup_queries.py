"""Aggregates out of rollups, and out of readings where those can't answer: in one statement, and so of one moment.

Of each series: the ends of the range that are no whole hours, hours that are not closed and hours that are marked come
from readings, everything else from the widest rollups that fit between the bounds of the intervals.
"""

from __future__ import annotations

from typing import Final, Literal

from iotplatform.adapters.postgres.rollup_marks import HOUR_US, ORIGIN
from iotplatform.domain.querying.query import TelemetryQuery

Level = Literal["minute", "hour", "day"]

_LENGTHS: Final[tuple[tuple[Level, int], ...]] = (("day", 24 * HOUR_US), ("hour", HOUR_US), ("minute", HOUR_US // 60))

# Name in a piece, what it is of a rollup, what of a reading, and how pieces come together.
_Part = tuple[str, str, str, str]
_NUMBERS: Final[_Part] = ("numbers", "numbers", "(value IS NOT NULL)::int", "sum(numbers)")
_AMOUNT: Final[_Part] = ("amount", "amount", "CASE WHEN abs(value) < 1e290 THEN value ELSE 0 END", "sum(amount)")
_LARGE: Final[_Part] = (
    "large",
    "large",
    "CASE WHEN abs(value) >= 1e290 THEN value * 2.0::float8 ^ -128 ELSE 0 END",
    "sum(large)",
)
_PARTS: Final[dict[str, tuple[_Part, ...]]] = {
    "count": (("readings", "readings", "1", "sum(readings)"),),
    "min": (("lowest", "lowest", "value", "min(lowest)"),),
    "max": (("highest", "highest", "value", "max(highest)"),),
    "sum": (_NUMBERS, _AMOUNT, _LARGE),
    "avg": (_NUMBERS, _AMOUNT, _LARGE),
    "first": (("first_at", "first_at", "at", "min(first_at)"),),
    "last": (("last_at", "last_at", "at", "max(last_at)"),),
}
_BACK: Final = "2.0::float8 ^ 128"
_VALUES: Final = {
    "count": "sum(readings)::float8",
    "min": "min(lowest)",
    "max": "max(highest)",
    "sum": f"CASE WHEN sum(numbers) > 0 THEN sum(amount) + sum(large) * {_BACK} END",
    "avg": "CASE WHEN sum(numbers) > 0 THEN sum(amount) / sum(numbers)::float8"
    f" + sum(large) / sum(numbers)::float8 * {_BACK} END",
}
PICKED: Final = {"first": "min(first_at)", "last": "max(last_at)"}

# $9 and $10 are whole hours in the range, $11 the first whole day. `hi` is where rollups end; nothing of a series that
# waits for its turn was rolled up.
_SERIES: Final = f"""
FROM (
    SELECT f.*, d.dirty, ARRAY(SELECT DISTINCT date_bin('1 day', h, {ORIGIN}) FROM unnest(d.dirty) h) AS dirty_days,
        CASE WHEN f.lo < f.hi THEN f.lo ELSE $5 END AS head_end, CASE WHEN f.lo < f.hi THEN f.hi ELSE $5 END AS tail,
        CASE WHEN $11 < f.last_day THEN $11 ELSE f.hi END AS day_lo,
        CASE WHEN $11 < f.last_day THEN f.last_day ELSE f.hi END AS day_hi
    FROM (
        SELECT e.*, CASE WHEN isfinite(e.hi) THEN date_bin('1 day', e.hi, {ORIGIN}) ELSE e.hi END AS last_day
        FROM (
            SELECT id, device_id, sensor, $9::timestamptz AS lo,
                CASE WHEN EXISTS (SELECT FROM rollup_backlog b WHERE b.series_id = series.id)
                    THEN '-infinity'::timestamptz
                    ELSE least((SELECT closed FROM rollup_state), $10::timestamptz)
                END AS hi
            FROM series
            WHERE epoch = $1
                AND (cardinality($2::text[]) = 0 OR device_id = ANY($2))
                AND (cardinality($3::text[]) = 0 OR sensor = ANY($3))
                AND (device_id, sensor) >= ($6::text, $7::text)
        ) e
    ) f CROSS JOIN LATERAL (
        SELECT ARRAY(
            SELECT hour FROM rollup_marks m WHERE m.series_id = f.id AND m.hour >= f.lo AND m.hour < f.hi
            UNION
            SELECT hour FROM rollup_work w WHERE w.series_id = f.id AND w.hour >= f.lo AND w.hour < f.hi
        ) AS dirty
    ) d
    ORDER BY device_id, sensor
) s CROSS JOIN LATERAL ({{inner}}) r
"""  # noqa: S608 - ours


def level_of(query: TelemetryQuery, starts: list[int] | None) -> Level | None:
    """The widest rollups of which none lies in two intervals; None when there are none, or too little is asked for."""
    if query.aggregate is None or query.aggregate.name not in _PARTS:
        return None
    if query.since is not None and query.until is not None and query.until - query.since < HOUR_US:
        return None
    for level, length in _LENGTHS:
        if starts is None:
            fits = query.interval is not None and query.interval.fixed_us is not None
            fits = fits and query.interval.fixed_us % length == 0  # type: ignore[union-attr,operator]
        else:
            # The first one may begin before the range does, and then nothing of it is cut.
            fits = all(start % length == 0 for start in starts[1:])
        if fits:
            return level
    return None


def bounds_of(since: int, until: int) -> tuple[int, int, int]:
    """The first whole hour of a range, the end of its last one, and its first whole day."""
    day = 24 * HOUR_US
    return -(-since // HOUR_US) * HOUR_US, until // HOUR_US * HOUR_US, -(-since // day) * day


def statement(name: str, bucket: str, level: Level) -> str:
    """`bucket` is an expression over `at`."""
    parts = _PARTS[name]
    rolled = ", ".join(f"{of_rollup} AS {part}" for part, of_rollup, _, _ in parts)
    read = ", ".join(f"{of_reading} AS {part}" for part, _, of_reading, _ in parts)
    of_readings = f"SELECT {bucket} AS bucket, {read} FROM readings WHERE series_id = s.id"  # noqa: S608 - ours

    def of_rollups(table: str, condition: str) -> str:
        return f"SELECT {bucket} AS bucket, {rolled} FROM {table} WHERE series_id = s.id AND {condition}"  # noqa: S608

    def readings_of(hours: str) -> str:
        within = "series_id = s.id AND at >= h.hour AND at < h.hour + interval '1 hour'"
        # A join would be turned round, and then reads all of the series to find that no hour of it is asked for.
        few = f"SELECT at, kind, value FROM readings WHERE {within} OFFSET 0"  # noqa: S608
        return f"SELECT {bucket} AS bucket, {read} FROM ({hours}) h(hour) CROSS JOIN LATERAL ({few}) readings"  # noqa: S608

    clean = "at <> ALL(s.dirty)"
    pieces = [
        f"{of_readings} AND at >= $4 AND at < s.head_end",
        f"{of_readings} AND at >= s.tail AND at < $5",
        readings_of("SELECT unnest(s.dirty)"),
    ]
    match level:
        case "minute":
            hour = f"date_bin('1 hour', at, {ORIGIN})"
            pieces.append(of_rollups("rollups_minute", f"at >= s.lo AND at < s.hi AND {hour} <> ALL(s.dirty)"))
            sparse = "SELECT at FROM rollups_hour WHERE series_id = s.id AND at >= s.lo AND at < s.hi"
            pieces.append(readings_of(f"{sparse} AND NOT by_minute AND {clean}"))
        case "hour":
            pieces.append(of_rollups("rollups_hour", f"at >= s.lo AND at < s.hi AND {clean}"))
        case "day":
            days = "at >= s.day_lo AND at < s.day_hi AND at <> ALL(s.dirty_days)"
            pieces.append(of_rollups("rollups_day", days))
            pieces.append(of_rollups("rollups_hour", f"at >= s.lo AND at < least(s.day_lo, s.hi) AND {clean}"))
            pieces.append(of_rollups("rollups_hour", f"at >= s.day_hi AND at < s.hi AND {clean}"))
            pieces.append(
                f"SELECT {bucket} AS bucket, {rolled} FROM unnest(s.dirty_days) d(day) JOIN rollups_hour"  # noqa: S608
                " ON series_id = s.id AND at >= d.day AND at < d.day + interval '1 day'"
                f" WHERE d.day >= s.day_lo AND d.day < s.day_hi AND {clean}"
            )
    together = " UNION ALL ".join(pieces)
    if picked := PICKED.get(name):
        found = f"SELECT bucket, {picked} AS at FROM ({together}) p GROUP BY 1"  # noqa: S608
        reading = "JOIN readings c ON c.series_id = s.id AND c.at = b.at"
        inner = f"SELECT b.bucket, c.kind, c.value, c.text FROM ({found}) b {reading} ORDER BY 1"  # noqa: S608
    else:
        value = _VALUES[name]
        inner = (
            f"SELECT bucket, 0::smallint AS kind, {value} AS value, NULL::text AS text FROM ({together}) p"  # noqa: S608
            f" GROUP BY 1 HAVING {value} IS NOT NULL ORDER BY 1"
        )
    return f"SELECT s.device_id, s.sensor, r.* {_SERIES.format(inner=inner)}"

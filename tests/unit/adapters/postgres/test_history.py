"""What a binary COPY gives, cut anywhere, comes out as it went in."""

from __future__ import annotations

import struct

from hypothesis import given
from hypothesis import strategies as st

from iotplatform.adapters.postgres.history import Points, Unpacker
from iotplatform.adapters.postgres.reading_rows import PG_EPOCH_US

readings = st.lists(
    st.tuples(st.integers(1, 4), st.integers(-(2**50), 2**50), st.floats(allow_nan=False)), max_size=40
).map(lambda rows: sorted(rows, key=lambda row: row[0]))


@given(readings, st.lists(st.integers(0, 2_000), max_size=20))
def test_cut_anywhere(rows: list[tuple[int, int, float]], cuts: list[int]) -> None:
    whole = b"PGCOPY\n\xff\r\n\x00" + bytes(8)
    whole += b"".join(struct.pack(">hiiiqid", 3, 4, series, 8, at, 8, value) for series, at, value in rows)
    whole += struct.pack(">h", -1)
    taken: list[tuple[int, Points]] = []
    unpacker = Unpacker(lambda series_id, points: taken.append((series_id, points)))
    start = 0
    for cut in [*sorted(cuts), len(whole)]:
        unpacker.feed(whole[start:cut])
        start = max(start, min(cut, len(whole)))
    found = [(series, at - PG_EPOCH_US, value) for series, points in taken for at, value in points]
    assert found == rows
    assert all(points for _, points in taken)

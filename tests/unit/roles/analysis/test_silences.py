"""When which series may be silent."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from iotplatform.roles.analysis.silences import Silences

entries = st.lists(
    st.tuples(st.sampled_from([b"a", b"b", b"c", b"d"]), st.sampled_from(["r", "s"]), st.integers(0, 20))
)


@given(entries, st.integers(0, 20))
def test_each_series_and_rule_once_at_its_first_time(entries, now):
    silences, expected = Silences(), {}
    for key, rule_id, due_at in entries:
        silences.put(key, rule_id, due_at)
        expected.setdefault((key, rule_id), due_at)
    due = {silence for silence, due_at in expected.items() if due_at <= now}
    assert silences.has_due(now) == bool(due)
    assert sorted(silences.due(now)) == sorted(due)
    assert all(silence in silences for silence in expected)
    taken = silences.take(now)
    assert sorted(taken) == sorted(due)
    assert [expected[silence] for silence in taken] == sorted(expected[silence] for silence in taken)
    assert len(silences) == len(expected) - len(due)
    assert not silences.has_due(now)


def test_one_that_was_taken_can_be_put_back():
    silences = Silences()
    silences.put(b"a", "r", 1)
    assert silences.take(1) == [(b"a", "r")]
    silences.put(b"a", "r", 5)
    assert (silences.due(4), silences.due(5)) == ([], [(b"a", "r")])

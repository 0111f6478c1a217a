"""Shares: the same everywhere, even, and nothing moves that needn't."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from iotplatform.runtime.rendezvous import owner_of

KEYS = [f"analysis/{epoch}/{partition}" for epoch in range(1, 251) for partition in range(8)]
members = st.frozensets(st.text(min_size=1, max_size=20), min_size=1, max_size=6)


def test_it_is_for_ever():
    """Processes of different versions share partitions while one replaces the other."""
    owners = [owner_of(f"analysis/7/{number}", ["a", "b", "c"]) for number in range(8)]
    assert owners == ["c", "a", "a", "a", "b", "b", "a", "b"]


def test_nobody_owns_anything_where_nobody_is():
    assert owner_of("analysis/1/0", []) is None
    assert owner_of("analysis/1/0", ["only"]) == "only"


@pytest.mark.parametrize("count", [2, 3, 5, 10])
def test_shares_are_even(count):
    names = [f"host-{number}" for number in range(count)]
    shares = Counter(owner_of(key, names) for key in KEYS)
    even = len(KEYS) / count
    assert all(0.75 * even < shares[name] < 1.25 * even for name in names)


def test_roles_of_one_process_do_not_have_the_same_partitions():
    names = ["a", "b"]
    same = sum(owner_of(key, names) == owner_of(key.replace("analysis", "persistence"), names) for key in KEYS)
    assert 0.4 * len(KEYS) < same < 0.6 * len(KEYS)


@given(st.text(max_size=30), members)
def test_the_order_of_members_does_not_matter(key, names):
    ordered = sorted(names)
    assert owner_of(key, ordered) == owner_of(key, ordered[::-1]) == owner_of(key, names)


@given(st.text(max_size=30), members, st.text(min_size=1, max_size=20))
def test_who_comes_takes_and_who_goes_leaves_and_nothing_else_moves(key, names, other):
    fewer, more = names - {other}, names | {other}
    if fewer:
        assert owner_of(key, more) in {owner_of(key, fewer), other}
    if owner_of(key, more) != other:
        assert owner_of(key, more) == owner_of(key, fewer)

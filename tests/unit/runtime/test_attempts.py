"""A burst, then a pace; by key; within bounds."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from iotplatform.runtime.attempts import Attempts


class Clock:
    def __init__(self) -> None:
        self.at = 1_000.0

    def __call__(self) -> float:
        return self.at


def test_a_burst_and_then_one_at_a_time() -> None:
    clock = Clock()
    attempts = Attempts(3, 10.0, now=clock)
    assert [attempts.take("a") for _ in range(3)] == [0, 0, 0]
    assert attempts.take("a") == 10
    assert attempts.take("b") == 0
    clock.at += 10
    assert attempts.take("a") == 0
    assert attempts.take("a") == 10
    clock.at += 1_000
    assert [attempts.take("a") for _ in range(3)] == [0, 0, 0]


def test_the_right_one_starts_over() -> None:
    attempts = Attempts(1, 10.0, now=Clock())
    attempts.take("a")
    assert attempts.take("a") > 0
    attempts.forget("a")
    assert attempts.take("a") == 0


def test_keys_are_bounded() -> None:
    attempts = Attempts(1, 10.0, most=3, now=Clock())
    for key in ("a", "b", "c", "a", "d"):
        attempts.take(key)
    # The one that tried last is remembered, the one that was not heard of for longest is not.
    assert attempts.take("a") > 0
    assert attempts.take("b") == 0


@given(st.lists(st.floats(0, 30), max_size=60))
def test_never_more_than_the_pace_allows(gaps: list[float]) -> None:
    clock = Clock()
    attempts = Attempts(5, 10.0, now=clock)
    began, allowed = clock.at, 0
    for gap in gaps:
        clock.at += gap
        allowed += attempts.take("a") == 0
    assert allowed <= 5 + (clock.at - began) / 10.0 + 1e-6

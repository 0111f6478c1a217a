from __future__ import annotations

import pytest

from iotplatform.runtime.strangers import Strangers, holder_of


class Clock:
    def __init__(self) -> None:
        self.now = 1_000.0

    def __call__(self) -> float:
        return self.now


def test_guesses_are_slowed_down_and_come_back() -> None:
    clock = Clock()
    strangers = Strangers(3, 10.0, now=clock)
    for number in range(3):
        assert strangers.wait_s("a", b"%d" % number) == 0
        strangers.refused("a", b"%d" % number)
    assert strangers.wait_s("a", b"new") == pytest.approx(10)
    assert strangers.wait_s("b", b"new") == 0
    clock.now += 10
    assert strangers.wait_s("a", b"new") == 0
    strangers.refused("a", b"new")
    assert strangers.wait_s("a", b"another") > 0
    clock.now += 100
    assert strangers.wait_s("a", b"another") == 0


def test_who_repeats_an_old_secret_guesses_nothing() -> None:
    strangers = Strangers(3, 10.0, now=Clock())
    for _ in range(100):
        assert strangers.wait_s("a", b"old") == 0
        strangers.refused("a", b"old")
    for number in range(2):
        strangers.refused("a", b"%d" % number)
    assert strangers.wait_s("a", b"new") > 0
    # What was refused before is refused again, rather than put off.
    assert strangers.wait_s("a", b"old") == 0


def test_memory_is_bounded() -> None:
    strangers = Strangers(3, 10.0, most=10)
    for number in range(1_000):
        strangers.refused(f"10.0.{number // 250}.{number % 250}", b"%d" % number)
    assert len(strangers._refused) == 10
    assert len(strangers._attempts._full_at) <= 10


@pytest.mark.parametrize(
    ("address", "holder"),
    [
        ("10.0.0.1", "10.0.0.1"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("2001:db8:1:2::1%eth0", "2001:db8:1:2::/64"),
        ("::ffff:10.0.0.1", "10.0.0.1"),
        ("", ""),
        ("a:b", "a:b"),
    ],
)
def test_of_ipv6_a_whole_network_is_one(address: str, holder: str) -> None:
    assert holder_of(address) == holder


def test_who_was_let_in_is_not_put_off_with_a_guesser_until_refused() -> None:
    strangers = Strangers(3, 10.0, now=Clock())
    strangers.let_in(b"good")
    for number in range(3):
        strangers.refused("a", b"%d" % number)
    assert strangers.wait_s("a", b"good") == 0
    assert strangers.wait_s("a", b"new") > 0
    strangers.refused("b", b"good")
    assert not strangers._welcome

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from iotplatform.domain.limit import DeviceLimits, Limits, OwnLimits, Rate, TokenBuckets, parse_rates, rate_faults

SECOND = 1_000_000


def test_rates() -> None:
    assert parse_rates("100:1,2000:60") == (Rate(100, 1), Rate(2000, 60))
    assert parse_rates(" 1:1 , 2:3 ") == (Rate(1, 1), Rate(2, 3))
    assert parse_rates(None) == parse_rates("unlimited") == ()


@pytest.mark.parametrize(
    "text",
    ["", "100", "100:", ":1", "0:1", "1:0", "-1:1", "1.5:1", "1:1,", "1e3:1", "1:1;2:2", "9" * 13 + ":1", "1:1," * 9],
)
def test_what_is_no_rate(text: str) -> None:
    with pytest.raises(ValueError, match="must be"):
        parse_rates(text)
    assert [name for name, _ in rate_faults(Limits(readings=text, device_requests="1:1"))] == ["readings"]
    assert [name for name, _ in rate_faults(DeviceLimits(requests=text))] == ["requests"]


def test_own_limits_lie_over_the_defaults() -> None:
    defaults = Limits(requests="1:1", readings="2:1", devices=5, rules=6)
    own = OwnLimits(requests="unlimited", devices=0, stream_bytes=1 << 20)
    assert own.over(defaults) == Limits(requests="unlimited", readings="2:1", devices=0, rules=6)


def test_a_bucket_is_full_at_first_and_refills_evenly() -> None:
    buckets = TokenBuckets((Rate(10, 1),), 0)
    assert buckets.grant(0, 20, 1).tokens == 10
    refused = buckets.grant(0, 1, 1)
    assert (refused.tokens, refused.wait_s) == (0, pytest.approx(0.1))
    assert buckets.grant(SECOND // 10, 5, 1).tokens == 1
    assert buckets.grant(100 * SECOND, 20, 1).tokens == 10


def test_every_bucket_of_the_stack_counts() -> None:
    buckets = TokenBuckets((Rate(10, 1), Rate(15, 60)), 0)
    assert buckets.grant(0, 10, 1).tokens == 10
    second = buckets.grant(SECOND, 10, 10)
    assert second.tokens == 5
    # The first one would have had 10 again.
    assert second.wait_s == pytest.approx((10 - 5.25) * 4)


def test_what_comes_back_can_be_granted_again() -> None:
    buckets = TokenBuckets((Rate(10, 3600),), 0)
    assert buckets.grant(0, 10, 1).tokens == 10
    assert buckets.grant(0, 10, 1, back=4).tokens == 4
    assert buckets.grant(0, 0, 0, back=1_000).left == 1.0


@given(
    st.lists(st.tuples(st.integers(1, 50), st.integers(1, 20)), min_size=1, max_size=3),
    st.lists(st.tuples(st.integers(0, 3 * SECOND), st.integers(0, 30)), max_size=60),
)
def test_no_window_ever_holds_more_than_its_bucket_and_what_flowed_in(
    given_rates: list[tuple[int, int]], asks: list[tuple[int, int]]
) -> None:
    rates = tuple(Rate(count, period) for count, period in given_rates)
    buckets = TokenBuckets(rates, 0)
    now, granted = 0, []
    for pause, want in asks:
        now += pause
        grant = buckets.grant(now, want, want)
        assert 0 <= grant.tokens <= want
        assert (grant.wait_s > 0) == (grant.tokens < want)
        granted.append((now, grant.tokens))
    for first in range(len(granted)):
        total = 0
        for at, tokens in granted[first:]:
            total += tokens
            for rate in rates:
                assert total <= rate.count * (1 + (at - granted[first][0]) / (rate.period_s * SECOND)) + 1e-6


@given(st.integers(1, 1000), st.integers(1, 100), st.integers(1, 1000))
def test_after_the_wait_it_is_there(count: int, period: int, need: int) -> None:
    buckets = TokenBuckets((Rate(count, period),), 0)
    buckets.grant(0, count, 1)
    refused = buckets.grant(0, 0, min(need, count))
    later = round(refused.wait_s * SECOND) + 1
    assert buckets.grant(later, min(need, count), min(need, count)).tokens == min(need, count)

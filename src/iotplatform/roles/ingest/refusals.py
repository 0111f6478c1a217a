"""What a sender is told who is over a limit: which one, and when to come again."""

from __future__ import annotations

import math

from iotplatform.errors import Rejected
from iotplatform.roles.ingest.lease import Lease


def too_many(lease: Lease, now: float) -> Rejected:
    wait_s = max(0.0, lease.closed_until - now)
    policy = ", ".join(f'"{lease.counted}-{rate.period_s}s";q={rate.count};w={rate.period_s}' for rate in lease.rates)
    tightest = max(lease.rates, key=lambda rate: rate.period_s / rate.count)
    state = f'"{lease.counted}-{tightest.period_s}s";r=0;t={max(1, math.ceil(wait_s))}'
    return Rejected(
        "over_quota",
        f"{_who(lease)} may send {_words(lease)}: nothing was stored",
        retry_after_s=wait_s,
        hints={"ratelimit-policy": policy, "ratelimit": state},
    )


def too_many_at_once(lease: Lease) -> Rejected:
    return Rejected(
        "too_large",
        f"{_who(lease)} may send {_words(lease)}, and never more than {lease.smallest} at once: "
        "send fewer readings in a request",
    )


def _who(lease: Lease) -> str:
    return f"the device {lease.subject!r}" if lease.subject else "the organization"


def _words(lease: Lease) -> str:
    return " and ".join(f"{rate.count} {lease.counted} in {rate.period_s} s" for rate in lease.rates)

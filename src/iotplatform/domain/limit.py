"""Limits: how much a tenant or a device may send, and how many things a tenant may have.

A limit of what is sent is a stack of token buckets, written `100:1,2000:60`: 100 in a second, and no more than 2,000 in
a minute. A bucket holds as many tokens as its count, and they come back evenly over its period.
"""

from __future__ import annotations

import re
from typing import Annotated, Final, Literal, TypeAlias

import msgspec

MAX_RATES: Final = 8
_RATE: Final = re.compile(r"([1-9][0-9]{0,11}):([1-9][0-9]{0,6})")
_SECOND: Final = 1_000_000

Unlimited: TypeAlias = Literal["unlimited"]
Quota: TypeAlias = Annotated[int, msgspec.Meta(ge=0, le=(1 << 53) - 1)]
Counted: TypeAlias = Literal["requests", "readings"]


class Rate(msgspec.Struct, frozen=True):
    count: int
    period_s: int

    def __str__(self) -> str:
        return f"{self.count}:{self.period_s}"


Rates: TypeAlias = tuple[Rate, ...]


def parse_rates(text: str | None) -> Rates:
    """The buckets of a stack; none for `unlimited`.

    Raises:
        ValueError: saying what is wrong.
    """
    if text is None or text == "unlimited":
        return ()
    parts = text.split(",")
    if len(parts) > MAX_RATES:
        raise ValueError(f"must be at most {MAX_RATES} rates")
    rates = []
    for part in parts:
        found = _RATE.fullmatch(part.strip())
        if found is None:
            raise ValueError(
                "must be rates such as 100:1,2000:60 (100 in 1 second and 2000 in 60 seconds), or unlimited"
            )
        rates.append(Rate(int(found[1]), int(found[2])))
    return tuple(rates)


class Grant(msgspec.Struct, frozen=True):
    """`left`: the smallest part of a bucket that remains, from 0 to 1; `wait_s`: until what was needed is there."""

    tokens: int
    wait_s: float
    left: float


class TokenBuckets:
    """A stack of buckets, full at first. What Redis does for all processes, a process does by this while it is away."""

    def __init__(self, rates: Rates, now_us: int) -> None:
        self._rates = rates
        self._tokens = [float(rate.count) for rate in rates]
        self._at = now_us

    def grant(self, now_us: int, want: int, need: int, back: int = 0) -> Grant:
        """As many tokens as there are, up to `want`; with fewer than `need` comes the time until that many are there.

        `back`: tokens of an earlier grant that nobody has used.
        """
        passed = max(0, now_us - self._at)
        self._at = max(now_us, self._at)
        self._tokens = [
            min(rate.count, tokens + back + passed * rate.count / (rate.period_s * _SECOND))
            for rate, tokens in zip(self._rates, self._tokens, strict=True)
        ]
        granted = min(want, *(int(tokens) for tokens in self._tokens))
        wait_s = 0.0
        if granted < need:
            wait_s = max(
                (need - tokens) * rate.period_s / rate.count
                for rate, tokens in zip(self._rates, self._tokens, strict=True)
            )
        self._tokens = [tokens - granted for tokens in self._tokens]
        left = min(tokens / rate.count for rate, tokens in zip(self._rates, self._tokens, strict=True))
        return Grant(granted, max(0.0, wait_s), left)


class DeviceLimits(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """What one device may send; None: as the organization's devices may."""

    requests: str | None = None
    readings: str | None = None


class Limits(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """Of an organization, in the settings: of every one. None: unlimited there, and as the settings say here.

    `requests` and `readings` are for all that it sends, `device_requests` and `device_readings` for each of its
    devices; the rest is how many it may have.
    """

    requests: str | None = None
    readings: str | None = None
    device_requests: str | None = None
    device_readings: str | None = None
    devices: Quota | Unlimited | None = None
    rules: Quota | Unlimited | None = None
    channels: Quota | Unlimited | None = None
    users: Quota | Unlimited | None = None
    api_keys: Quota | Unlimited | None = None
    provisioning_keys: Quota | Unlimited | None = None
    mappings: Quota | Unlimited | None = None
    maintenance_windows: Quota | Unlimited | None = None

    def over(self, defaults: Limits) -> Limits:
        """These, and the defaults where they say nothing."""
        own = {field: getattr(self, field) for field in Limits.__struct_fields__}
        given = {name: value for name, value in own.items() if value is not None}
        return msgspec.structs.replace(defaults, **given)


class OwnLimits(Limits, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """Those of one organization alone. `stream_bytes` is what its stream may hold (see `streams.max_bytes`)."""

    stream_bytes: Annotated[int, msgspec.Meta(ge=1 << 20, le=(1 << 53) - 1)] | None = None


RATES: Final = ("requests", "readings", "device_requests", "device_readings")
QUOTAS: Final = (
    "devices", "rules", "channels", "users", "api_keys", "provisioning_keys", "mappings", "maintenance_windows"
)  # fmt: skip
NO_LIMITS: Final = Limits()


def rate_faults(limits: Limits | DeviceLimits) -> list[tuple[str, str]]:
    """Field and sentence of every rate that can't be understood."""
    faults = []
    for name in limits.__struct_fields__:
        if name in RATES:
            try:
                parse_rates(getattr(limits, name))
            except ValueError as error:
                faults.append((name, str(error)))
    return faults

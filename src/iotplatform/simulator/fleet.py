"""Devices that don't exist: random walks at a steady rate."""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Final

import msgspec

from iotplatform.simulator.traffic import Due, Reading, Series, Traffic

MAX_LANES: Final = 16
"""Requests in flight at most. More would not be faster: a busy lane puts more readings into each request."""

# Temperatures that wander around the mean and now and then beyond 80, where the default rule raises an alarm.
_MEAN: Final = 70.0
_PULL: Final = 0.01
_STEP: Final = 0.8


class Fleet(msgspec.Struct, frozen=True, kw_only=True):
    """`devices` devices called `<device>-1`, `<device>-2`, … which take turns: together `rate` readings a second."""

    series: Series
    devices: int
    rate: float
    duration_s: float | None = None
    seed: int | None = None

    def traffic(self) -> Traffic:
        # Counted rather than timed: the same arguments make the same readings however late the clock wakes us. The
        # small number keeps 10/s for 0.3 s at 3 readings, whatever the product of the two floats is.
        total = None if self.duration_s is None else math.ceil(self.rate * self.duration_s - 1e-9)
        lanes = min(self.devices, MAX_LANES)
        seed = random.SystemRandom().getrandbits(64) if self.seed is None else self.seed
        return Traffic(
            lanes=[self._lane(range(lane, self.devices, lanes), total, f"{seed}/{lane}") for lane in range(lanes)],
            total=total,
            closes_after_s=self.duration_s,
        )

    def _lane(self, members: range, total: int | None, seed: str) -> Iterator[Due]:
        walk = random.Random(seed)  # noqa: S311 - readings, not secrets; a seed must give them again
        values = [walk.gauss(_MEAN, 4.0) for _ in members]
        names = [f"{self.series.device_id}-{member + 1}" for member in members]
        started_at = datetime.now(UTC)
        for turn in itertools.count():
            for place, member in enumerate(members):
                number = turn * self.devices + member
                if total is not None and number >= total:
                    return
                after_s = number / self.rate
                values[place] += walk.gauss(0.0, _STEP) + _PULL * (_MEAN - values[place])
                # The time of the schedule, not of sending: a device that had to wait measured when it measured.
                time = started_at + timedelta(seconds=after_s)
                value = round(values[place], 3)
                reading = Reading(self.series.organization_id, names[place], self.series.sensor_name, value, time)
                yield Due(after_s, reading)

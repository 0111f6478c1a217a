"""Who computes rollups, and how much at once."""

from __future__ import annotations

import pytest

from iotplatform.roles.persistence import rollup_care
from iotplatform.roles.persistence.rollup_care import RollupCare


class Rollups:
    def __init__(self) -> None:
        self.done: list[str] = []
        self.waiting = 0
        self.series = 0
        self.asked: list[int] = []

    async def close(self) -> None:
        self.done.append("close")

    async def take_marks(self) -> None:
        self.done.append("marks")

    async def take_series(self) -> bool:
        if not self.series:
            return False
        self.series -= 1
        self.waiting += 10
        return True

    async def compute(self, pieces: int) -> int:
        self.asked.append(pieces)
        computed = min(pieces, self.waiting)
        self.waiting -= computed
        return computed


async def test_one_computes_until_nothing_waits_and_takes_more_at_once_when_it_is_quick() -> None:
    rollups = Rollups()
    rollups.waiting, rollups.series = 200, 2
    care = RollupCare(rollups, lambda: True)
    await care.care()
    assert rollups.done == ["close", "marks"]
    assert (rollups.waiting, rollups.series) == (0, 0)
    assert rollups.asked[:4] == [16, 32, 64, 128]
    await care.care()
    # Marks wait for some minutes, so that an hour is not computed with every late reading.
    assert rollups.done == ["close", "marks", "close"]


async def test_who_is_slow_takes_less_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    rollups = Rollups()
    rollups.waiting = 40
    monkeypatch.setattr(rollup_care, "LONG_S", -1.0)
    await RollupCare(rollups, lambda: True).care()
    assert rollups.asked[:5] == [16, 8, 4, 2, 1]


async def test_who_is_not_to_do_it_does_nothing() -> None:
    rollups = Rollups()
    await RollupCare(rollups, lambda: False).care()
    assert rollups.done == []

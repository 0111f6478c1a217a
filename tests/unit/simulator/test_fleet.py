from __future__ import annotations

from collections import Counter

import pytest

from iotplatform.simulator.fleet import MAX_LANES, Fleet
from iotplatform.simulator.simulation import Simulation
from iotplatform.simulator.summary import Tally
from iotplatform.simulator.traffic import Series

SERIES = Series("lab", "machine", "temperature")


def walks(seed):
    traffic = Fleet(series=SERIES, devices=3, rate=10.0, duration_s=2.0, seed=seed).traffic()
    return [[(due.after_s, due.reading.device_id, due.reading.value) for due in lane] for lane in traffic.lanes]


def test_a_seed_walks_the_same_way_again():
    assert walks(7) == walks(7)
    assert walks(7) != walks(8)
    assert walks(None) != walks(None)


@pytest.mark.parametrize(
    ("rate", "duration_s", "expected"),
    [(10.0, 2.0, 20), (10.0, 0.3, 3), (3.0, 0.5, 2), (0.5, 1.0, 1), (1e4, 0.7, 7_000)],
)
@pytest.mark.parametrize("devices", [1, 7, 40])
def test_rate_times_duration_readings_are_due(rate, duration_s, expected, devices):
    traffic = Fleet(series=SERIES, devices=devices, rate=rate, duration_s=duration_s, seed=1).traffic()
    dues = [list(lane) for lane in traffic.lanes]
    assert traffic.total == sum(map(len, dues)) == expected
    assert all(due.after_s < duration_s for lane in dues for due in lane)
    assert all(lane == sorted(lane, key=lambda due: due.after_s) for lane in dues)


def test_devices_take_turns_and_keep_to_one_lane():
    traffic = Fleet(series=SERIES, devices=40, rate=100.0, duration_s=2.0, seed=1).traffic()
    lanes = [[due.reading.device_id for due in lane] for lane in traffic.lanes]
    assert len(lanes) == MAX_LANES
    assert Counter(device for lane in lanes for device in lane) == {f"machine-{n}": 5 for n in range(1, 41)}
    assert sum(len(set(lane)) for lane in lanes) == 40


async def test_a_fleet_sends_every_reading_of_its_duration_in_order(platform):
    tally = Tally()
    traffic = Fleet(series=SERIES, devices=20, rate=2_000.0, duration_s=0.25, seed=1).traffic()
    await Simulation(endpoints=platform.endpoints(), organization="lab").run(traffic, tally)
    readings = platform.readings()
    assert tally.sent == tally.accepted == len(readings) == 500
    assert tally.overdue == 0
    by_device: dict[str, list[str]] = {}
    for reading in readings:
        by_device.setdefault(reading["device_id"], []).append(reading["timestamp"])
    assert len(by_device) == 20
    assert all(times == sorted(set(times)) for times in by_device.values())
    assert platform.most_in_flight <= MAX_LANES
    assert not platform.overtaken


async def test_a_fleet_that_fell_behind_stops_and_says_so(platform):
    tally = Tally()
    traffic = Fleet(series=SERIES, devices=2, rate=1_000_000.0, duration_s=0.01, seed=1).traffic()
    await Simulation(endpoints=platform.endpoints(), organization="lab", batch=10).run(traffic, tally)
    assert tally.sent == tally.accepted == len(platform.readings())
    assert tally.overdue == 10_000 - tally.sent > 0
    assert "readings due and not sent" in tally.report()

from __future__ import annotations

import pytest

from iotplatform.simulator.summary import Latencies, Tally


def test_percentiles_are_right_to_one_percent():
    latencies = Latencies()
    for milliseconds in range(1, 1001):
        latencies.add(milliseconds / 1000)
    assert latencies.percentile_ms(50) == pytest.approx(500, rel=0.01)
    assert latencies.percentile_ms(99) == pytest.approx(990, rel=0.01)
    assert latencies.percentile_ms(100) <= latencies.max_ms == 1000


def test_one_request_is_every_percentile():
    latencies = Latencies()
    latencies.add(0.0123)
    assert latencies.percentile_ms(50) == latencies.percentile_ms(99) == pytest.approx(12.3, rel=0.01)
    assert latencies.max_ms == pytest.approx(12.3)


def test_nothing_and_no_time_at_all_are_figures_too():
    latencies = Latencies()
    assert latencies.percentile_ms(99) == 0
    latencies.add(0.0)
    assert latencies.percentile_ms(99) == 0


def test_the_memory_of_latencies_does_not_grow_with_their_number():
    latencies = Latencies()
    for number in range(100_000):
        latencies.add(number / 1000)
    assert len(latencies._buckets) < 2_500


def test_the_report_of_a_quiet_run_has_figures_only():
    heard = []
    tally = Tally(on_accepted=heard.append)
    tally.start()
    tally.sent = 3
    tally.requests = 2
    tally.count_accepted(2)
    tally.count_accepted(1)
    tally.latencies.add(0.002)
    tally.stop()
    lines = tally.report().splitlines()
    names = [line.partition(":")[0] for line in lines]
    assert names == [
        "readings sent",
        "readings accepted",
        "seconds",
        "readings/s",
        "requests",
        "request latency ms",
        "retries",
    ]
    assert "readings accepted: 3" in lines
    assert "request latency ms: p50 2.0, p99 2.0, max 2.0" in lines
    assert heard == [2, 1]


def test_the_report_names_what_needs_a_second_look():
    tally = Tally()
    tally.sent, tally.batches_in_doubt, tally.overdue = 5, 2, 7
    report = tally.report()
    assert "2 batches were retried after an unknown outcome" in report
    assert "readings due and not sent: 7" in report
    assert "readings never confirmed: 5" in report
    tally.batches_in_doubt = 1
    assert "1 batch was retried after an unknown outcome" in tally.report()

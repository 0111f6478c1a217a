"""How long to wait before trying again."""

from __future__ import annotations

import itertools
from types import SimpleNamespace

import pytest

from iotplatform.runtime import backoff as backoff_module
from iotplatform.runtime.backoff import Backoff


def within(delay, middle):
    return 0.75 * middle <= delay <= 1.25 * middle


def test_doubles_up_to_a_bound():
    backoff = Backoff(0.1, 1.0)
    for middle in (0.1, 0.2, 0.4, 0.8, 1.0, 1.0, 1.0):
        assert within(backoff.next_s(), middle)


def test_processes_do_not_return_in_step():
    assert len({Backoff(0.1, 1.0).next_s() for _ in range(20)}) > 10


def test_begins_again_after_a_success():
    backoff = Backoff(0.1, 1.0)
    for _ in range(5):
        backoff.next_s()
    backoff.reset()
    assert within(backoff.next_s(), 0.1)
    assert within(backoff.next_s(), 0.2)


def test_a_bound_below_the_first_step():
    backoff = Backoff(1.0, 0.5)
    backoff.next_s()
    assert all(within(delay, 0.5) for delay in itertools.islice(iter(backoff.next_s, None), 3))


async def test_waits_as_long_as_it_says(monkeypatch):
    waited = []

    async def sleep(delay):
        waited.append(delay)

    # For this module alone: whatever else runs in this event loop would never let go of it again.
    monkeypatch.setattr(backoff_module, "asyncio", SimpleNamespace(sleep=sleep))
    backoff = Backoff(0.1, 0.2)
    for _ in range(3):
        await backoff.wait()
    assert [pytest.approx(delay, rel=0.25) for delay in (0.1, 0.2, 0.2)] == waited

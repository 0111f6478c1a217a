from __future__ import annotations

from iotplatform.roles.ingest.receiving import SMALL, Receiving


def test_what_has_arrived_is_bounded() -> None:
    receiving = Receiving(10 * SMALL)
    assert all(receiving.reserve(SMALL, 0) for _ in range(10))
    assert not receiving.reserve(1, 0)
    receiving.release(SMALL)
    assert receiving.reserve(SMALL, 0)
    assert receiving.held == 10 * SMALL


def test_large_bodies_leave_room_for_small_ones() -> None:
    receiving = Receiving(10 * SMALL)
    so_far = 0
    while receiving.reserve(SMALL, so_far):
        so_far += SMALL
    assert receiving.held == so_far == 5 * SMALL
    assert receiving.reserve(100, 0)
    assert not receiving.reserve(2 * SMALL, 0)

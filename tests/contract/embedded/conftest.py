"""These tests call from inside a loop what the platform calls in threads. That it does, the strict platform of
tests/acceptance holds: there the detector is on in the running program."""

from __future__ import annotations

import pytest


@pytest.fixture(autouse=True)
def no_blocking_calls() -> None:
    """Off."""

"""One platform for every test that needs no settings of its own."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any

import psutil
import pytest

from tests.support.platform import Platform


@pytest.fixture(scope="session")
async def platform(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Platform]:
    """All roles in one process. At the end: a clean exit, no child left, and not one error in its log."""
    running = await Platform.start(tmp_path_factory.mktemp("platform") / "data", retention__every_s="0.5")
    children = psutil.Process(running.process.pid).children(recursive=True)
    yield running
    assert await running.stop() == 0, running.tail()
    assert [child for child in children if child.is_running()] == []
    assert faults_in(running.lines) == []


def faults_in(lines: list[dict[str, Any]]) -> list[str]:
    return [
        json.dumps(line)
        for line in lines
        if line["level"] == "error" or "exception" in line or "BlockingError" in str(line)
    ]

"""A look at the servers shows what is there; what it can not read ends nothing."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from structlog.testing import capture_logs

from iotplatform.app.server_watch import ServerWatch
from iotplatform.errors import Unavailable
from iotplatform.observability.metrics import Metrics


@pytest.mark.parametrize(
    ("error", "is_told"),
    [(KeyError("total"), True), (Unavailable("away"), False), (TimeoutError(), False)],
    ids=["an answer of another form", "away", "no answer in time"],
)
async def test_an_answer_that_can_not_be_read_is_that_of_a_server_that_is_away(error: Exception, is_told: bool) -> None:
    async def fail() -> None:
        raise error

    metrics = Metrics()
    resources: Any = SimpleNamespace(connection=None, database=None, redis=None)
    watch = ServerWatch(resources, metrics)
    metrics.servers.server_up.set(1, "nats")
    with capture_logs() as lines:
        await watch._look_at("nats", ("jetstream",), fail)
    assert metrics.servers.server_up.values["nats",] == 0
    assert [line["event"] for line in lines] == ["watch.failed"] * is_told

from __future__ import annotations

import asyncio

import pytest
from structlog.testing import capture_logs

from iotplatform.adapters.postgres.outgoing import Attempt
from iotplatform.adapters.secrets.vault import Vault
from iotplatform.errors import Unavailable
from iotplatform.observability.metrics import Metrics
from iotplatform.roles.notification.dispatcher import Dispatcher, DispatchLimits
from iotplatform.runtime.clock import now_us
from iotplatform.runtime.tasks import TaskDied

VAULT = Vault.open_with(Vault.make_key())
LIMITS = DispatchLimits(per_channel=2, total=5, poll_s=60.0)


@pytest.fixture
def metrics():
    return Metrics()


@pytest.fixture
async def dispatcher(stored, channel, metrics):
    made = Dispatcher(stored, {"email": channel}, VAULT, metrics, LIMITS)
    yield made
    channel.gate.set()
    await made.stop(1.0)


async def finished(stored, count):
    async with asyncio.timeout(5):
        for _ in range(count):
            await stored.finished.acquire()


async def asked(channel, count):
    async with asyncio.timeout(5):
        for _ in range(count):
            await channel.asked.acquire()


async def test_due_rows_are_delivered_and_written_down(dispatcher, stored, channel, metrics, claimed):
    stored.due = [claimed(channel_id=name) for name in ("a", "b")]
    dispatcher.start()
    await finished(stored, 2)
    assert {state for _, state, _, _ in stored.done} == {"sent"}
    assert len(channel.sent) == 2
    assert metrics.notifications.values == {("email", "sent"): 2}
    assert sum(metrics.breach_to_notification.counts) == 2


async def test_it_wakes_at_once(dispatcher, stored, claimed):
    dispatcher.start()
    await stored.claimed.acquire()
    stored.due = [claimed()]
    dispatcher.wake()
    await finished(stored, 1)


async def test_it_polls(stored, channel, metrics, claimed):
    dispatcher = Dispatcher(stored, {"email": channel}, VAULT, metrics, DispatchLimits(poll_s=0.01))
    dispatcher.start()
    await stored.claimed.acquire()
    stored.due = [claimed()]
    await finished(stored, 1)
    await dispatcher.stop(1.0)


async def test_a_slow_channel_does_not_hold_up_the_others(dispatcher, stored, channel, claimed):
    channel.gate.clear()
    stored.due = [claimed(channel_id="slow") for _ in range(10)] + [claimed(channel_id="other")]
    dispatcher.start()
    await asked(channel, 3)
    assert len([delivery for delivery in stored.due if delivery.channel_id == "slow"]) == 8
    assert channel.at_once == 3
    channel.gate.set()
    await finished(stored, 11)
    assert channel.most_at_once == 3


async def test_what_is_under_way_is_bounded(dispatcher, stored, channel, claimed):
    channel.gate.clear()
    stored.due = [claimed(channel_id=f"c{number}") for number in range(20)]
    dispatcher.start()
    await asked(channel, LIMITS.total)
    dispatcher.wake()
    await asyncio.sleep(0)
    channel.gate.set()
    await finished(stored, 20)
    assert channel.most_at_once == LIMITS.total


async def test_what_is_under_way_is_renewed(stored, channel, metrics, claimed):
    dispatcher = Dispatcher(stored, {"email": channel}, VAULT, metrics, DispatchLimits(renew_s=0.01, lease_s=7.0))
    channel.gate.clear()
    stored.due = [claimed(), claimed()]
    ids = {delivery.id for delivery in stored.due}
    dispatcher.start()
    await asked(channel, 2)
    stored.away = 1
    async with asyncio.timeout(5):
        assert await stored.renewed.get() == (ids, 7.0)
    channel.gate.set()
    await finished(stored, 2)
    await dispatcher.stop(1.0)


async def test_a_failed_attempt_is_counted_and_logged(dispatcher, stored, channel, metrics, claimed):
    channel.errors = [Unavailable("busy")]
    stored.due = [claimed()]
    with capture_logs() as lines:
        dispatcher.start()
        await finished(stored, 1)
    ((_, state, attempt, again_s),) = stored.done
    assert (state, attempt.outcome, again_s) == ("pending", "retry", 5.0)
    assert metrics.notifications.values == {("email", "retry"): 1}
    (line,) = [line for line in lines if line["event"] == "notification.retry"]
    assert (line["organization"], line["channel"], line["detail"]) == ("orgA", "ops", "busy")


async def test_only_the_first_answer_to_a_raise_is_timed(dispatcher, stored, metrics, claimed, raised, cleared):
    before = (Attempt("2026-01-31T12:00:00.000000Z", "retry", "busy"),)
    stored.due = [
        claimed(raised(arrived_at=now_us() - 3_000_000), channel_id="a"),
        claimed(channel_id="b", attempts=before),
        claimed(cleared(), channel_id="c"),
    ]
    dispatcher.start()
    await finished(stored, 3)
    assert sum(metrics.breach_to_notification.counts) == 1
    assert 3.0 <= metrics.breach_to_notification.sum < 10.0


async def test_a_database_that_is_away_is_waited_for(dispatcher, stored, channel, claimed):
    stored.away = 2
    stored.due = [claimed()]
    dispatcher.start()
    await finished(stored, 1)
    assert len(channel.sent) == 1


async def test_what_was_sent_is_written_down_however_long_it_takes(dispatcher, stored, channel, claimed):
    channel.gate.clear()
    stored.due = [claimed()]
    dispatcher.start()
    await asked(channel, 1)
    stored.away = 3
    channel.gate.set()
    await finished(stored, 1)
    assert len(channel.sent) == 1


async def test_stop_finishes_what_is_under_way(dispatcher, stored, channel, claimed):
    channel.gate.clear()
    stored.due = [claimed(channel_id=name) for name in ("a", "b", "b", "b")]
    dispatcher.start()
    await asked(channel, 3)
    async with asyncio.TaskGroup() as group:
        group.create_task(dispatcher.stop(5.0))
        await asyncio.sleep(0)
        channel.gate.set()
    assert [state for _, state, _, _ in stored.done] == ["sent"] * 3
    assert len(stored.due) == 1


async def test_stop_does_not_wait_for_ever(dispatcher, stored, channel, claimed):
    channel.gate.clear()
    stored.due = [claimed()]
    dispatcher.start()
    await asked(channel, 1)
    await dispatcher.stop(0.05)
    assert stored.done == []
    assert channel.at_once == 0


async def test_stop_before_start(dispatcher):
    await dispatcher.stop(5.0)


async def test_a_bug_is_noticed(dispatcher, stored, channel, claimed):
    channel.errors = [RuntimeError("bug")]
    stored.due = [claimed()]
    dispatcher.start()
    async with asyncio.timeout(5):
        with pytest.raises(TaskDied, match="bug"):
            await dispatcher.wait()

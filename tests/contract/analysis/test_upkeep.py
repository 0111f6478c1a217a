"""What happens to alarms without a reading: a hand, a change of rules or devices, and silence. On real servers."""

from __future__ import annotations

import asyncio

import pytest

from iotplatform.adapters.nats.controls import Controls
from iotplatform.adapters.postgres.ingestion import IngestionRoll
from iotplatform.domain.conditions import NoData
from iotplatform.domain.control import ClearAlarm, ForgetDevice
from iotplatform.domain.rule import Devices, Threshold
from iotplatform.roles.analysis import tending
from iotplatform.roles.ingest import presence
from iotplatform.roles.ingest.presence import IngestionPresence
from iotplatform.runtime.clock import now_us


@pytest.fixture(autouse=True)
def looks_often(monkeypatch):
    monkeypatch.setattr(tending, "LOOK_EVERY_S", 0.05)
    monkeypatch.setattr(presence, "BEAT_EVERY_S", 0.05)


def story(told):
    """Raised or cleared, device, and why."""
    return [(type(one).__name__[5:].lower(), one.device_id, getattr(one, "reason", None)) for one in told]


async def test_a_hand_clears_and_what_still_breaches_counts_anew(stack):
    organization = await stack.organization(raise_after=2)
    async with stack.analysis():
        await stack.send(organization, 90.0, 90.0)
        (raised,) = await stack.until_told(organization, 1)
        now = now_us()
        hand = ClearAlarm(raised.alarm_id, "default", "m", "temp", "ann", now)
        await Controls(stack.publisher).publish(organization, hand)
        _, cleared = await stack.until_told(organization, 2)
        assert (cleared.alarm_id, cleared.reason, cleared.by) == (raised.alarm_id, "manual", "ann")
        assert (cleared.cleared_at, cleared.value, cleared.position) == (now, None, 3)
        # Again, as when two people do so: nothing more happens, whatever the server remembers of the message.
        other = ClearAlarm("another", "default", "m", "temp", "bob", now)
        await Controls(stack.publisher).publish(organization, other)
        await stack.until_acknowledged(organization, await stack.send(organization, 90.0, 90.0))
        assert story(await stack.until_told(organization, 3)) == [
            ("raised", "m", None), ("cleared", "m", "manual"), ("raised", "m", None),
        ]  # fmt: skip


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"enabled": None}, "rule_deleted"),
        ({"enabled": False}, "rule_disabled"),
        ({"condition": Threshold(">", 85.0)}, "rule_changed"),
        ({"sensor": "temperature*"}, "rule_changed"),
        ({"devices": Devices(ids=("m",))}, "rule_changed"),
    ],
)
@pytest.mark.parametrize("is_away", [False, True], ids=["running", "away"])
async def test_a_rule_that_no_longer_is_what_it_was_clears_its_alarms(stack, changes, reason, is_away):
    """Whether anybody is there when it changes or not, and without a reading."""
    organization = await stack.organization(raise_after=1)
    async with stack.history():
        async with stack.analysis():
            await stack.until_acknowledged(organization, await stack.send(organization, 90.0))
            await stack.until_told(organization, 1)
            if not is_away:
                await stack.change_rule(organization, **changes)
                await stack.until_told(organization, 2)
        if is_away:
            await stack.change_rule(organization, **changes)
        async with stack.analysis():
            raised, cleared = await stack.until_told(organization, 2)
    assert story([raised, cleared]) == [("raised", "m", None), ("cleared", "m", reason)]
    assert (cleared.alarm_id, cleared.rule_name, cleared.severity) == (raised.alarm_id, "Hot", "major")
    assert (cleared.position, cleared.condition != "") == (1, True)


async def test_what_does_not_change_the_condition_clears_nothing(stack):
    organization = await stack.organization(raise_after=1, clear_after=3)
    async with stack.analysis():
        await stack.until_acknowledged(organization, await stack.send(organization, 90.0, 70.0))
        await stack.change_rule(organization, severity="info", clear_after=2, name="Warm")
        # The good reading of before counts, and two are enough from now on.
        await stack.until_acknowledged(organization, await stack.send(organization, 70.0))
        _, cleared = await stack.until_told(organization, 2)
    assert (cleared.reason, cleared.severity, cleared.rule_name) == (None, "info", "Warm")


async def test_a_deleted_device_has_no_alarms_and_nothing_of_it_counts_on(stack):
    organization = await stack.organization(raise_after=2)
    async with stack.analysis():
        await stack.send(organization, 90.0, 90.0)
        await stack.send(organization, 90.0, device="n")
        await stack.until_told(organization, 1)
        for device in ("m", "n"):
            await Controls(stack.publisher).publish(organization, ForgetDevice(device, "ann", now_us()))
        await stack.until_told(organization, 2)
        await stack.until_acknowledged(organization, await stack.send(organization, 90.0, device="n"))
        assert story(await stack.told(organization)) == [("raised", "m", None), ("cleared", "m", "device_deleted")]


async def test_a_rule_for_tags_follows_the_devices(stack):
    organization = await stack.organization(raise_after=1, devices=Devices(tags=("hall", "hot")))
    await stack.tag(organization, "m", "hall", "hot", "other")
    await stack.tag(organization, "n", "hall")
    async with stack.analysis():
        await stack.send(organization, 90.0)
        await stack.until_acknowledged(organization, await stack.send(organization, 90.0, device="n"))
        await stack.until_told(organization, 1)
        await stack.tag(organization, "m", "hall")
        await stack.tag(organization, "n", "hall", "hot")
        await stack.until_told(organization, 2)
        await stack.send(organization, 90.0)
        await stack.until_acknowledged(organization, await stack.send(organization, 90.0, device="n"))
        assert story(await stack.until_told(organization, 3)) == [
            ("raised", "m", None), ("cleared", "m", "device_changed"), ("raised", "n", None),
        ]  # fmt: skip


async def test_what_a_hand_cleared_stays_cleared_when_redis_is_lost(stack):
    organization = await stack.organization(raise_after=1)
    async with stack.history(), stack.analysis():
        await stack.send(organization, 90.0)
        (raised,) = await stack.until_told(organization, 1)
        hand = ClearAlarm(raised.alarm_id, "default", "m", "temp", "ann", now_us())
        await Controls(stack.publisher).publish(organization, hand)
        await stack.until_told(organization, 2)
        await stack.until_acknowledged(organization, 2)
        await stack.lose_redis()
        await stack.until_acknowledged(organization, await stack.send(organization, 70.0, 90.0))
        assert story(await stack.until_told(organization, 3)) == [
            ("raised", "m", None), ("cleared", "m", "manual"), ("raised", "m", None),
        ]  # fmt: skip


@pytest.fixture
async def ingestion(stack):
    """Readings can arrive, until `away` is set."""

    class Ingestion:
        def __init__(self):
            self.presence = IngestionPresence(stack.connection, IngestionRoll(stack.database))
            self.is_there = True

        async def run(self):
            while True:
                if self.is_there:
                    await self.presence.beat()
                await asyncio.sleep(0.05)

    await stack.database.pool.execute("DELETE FROM ingestion")
    made = Ingestion()
    stack.tasks.start(made.run(), "ingestion")
    return made


async def test_a_series_that_falls_silent(stack, ingestion):
    organization = await stack.organization(condition=NoData(0.6))
    async with stack.analysis():
        await stack.send(organization, 1.0)
        last = await stack.send(organization, 1.0)
        (raised,) = await stack.until_told(organization, 1)
        # By the stream's clock, from the last one on.
        message = await stack.api.get(f"ORG_{organization.id}", {"seq": last})
        assert message is not None
        assert raised.raised_at - raised.first_breach_at == 600_000
        assert (raised.trigger_value, raised.readings, raised.position) == (0.6, [], last)
        await stack.send(organization, 5.0)
        _, cleared = await stack.until_told(organization, 2)
        assert (cleared.alarm_id, cleared.reason, cleared.value) == (raised.alarm_id, None, 5.0)
        # And again, as another alarm.
        *_, again = await stack.until_told(organization, 3)
        assert again.alarm_id != raised.alarm_id


async def test_silence_goes_on_counting_when_another_takes_over(stack, ingestion):
    organization = await stack.organization(condition=NoData(1.0))
    async with stack.analysis():
        await stack.until_acknowledged(organization, await stack.send(organization, 1.0))
    async with stack.analysis():
        (raised,) = await stack.until_told(organization, 1)
    async with stack.analysis():
        await stack.send(organization, 1.0)
        _, cleared = await stack.until_told(organization, 2)
    assert cleared.alarm_id == raised.alarm_id
    assert raised.raised_at - raised.first_breach_at == 1_000_000


async def test_nobody_is_silent_while_nobody_can_be_heard(stack, ingestion):
    silent = await stack.organization(condition=NoData(1.0))
    async with stack.analysis():
        await stack.until_acknowledged(silent, await stack.send(silent, 1.0))
        ingestion.is_there = False
        await asyncio.sleep(2.0)
        assert await stack.told(silent) == []
        # Back, as after an outage: from now on it counts, and not from before.
        ingestion.presence._is_back = True
        ingestion.is_there = True
        back_at = now_us()
        (raised,) = await stack.until_told(silent, 1)
        assert raised.raised_at >= back_at + 1_000_000
        assert raised.first_breach_at < back_at


async def test_a_series_that_was_heard_before_the_rule_is_watched_from_then_on(stack, ingestion):
    organization = await stack.organization(enabled=False, condition=NoData(0.5))
    # Of a device that was deleted the series is left, and no reading.
    query = (
        "WITH made AS (INSERT INTO series (epoch, device_id, sensor) "
        "VALUES ($1, 'm', 'temp'), ($1, 'm', 'other'), ($1, 'gone', 'temp') RETURNING id, device_id) "
        "INSERT INTO readings (series_id, kind, at, value, position) "
        "SELECT id, 0, now(), 1, 1 FROM made WHERE device_id <> 'gone'"
    )
    await stack.database.pool.execute(query, organization.epoch)
    async with stack.analysis():
        await stack.change_rule(organization, enabled=True)
        (raised,) = await stack.until_told(organization, 1)
        assert (raised.device_id, raised.sensor) == ("m", "temp")
        last = await stack.send(organization, 1.0)
        await stack.until_acknowledged(organization, last)
        assert {one.device_id for one in await stack.told(organization)} == {"m"}


async def test_text_is_data_too(stack, ingestion):
    organization = await stack.organization(condition=NoData(0.5))
    async with stack.analysis():
        await stack.send(organization, "on")
        (raised,) = await stack.until_told(organization, 1)
        await stack.send(organization, "off")
        _, cleared = await stack.until_told(organization, 2)
        assert (cleared.alarm_id, cleared.value) == (raised.alarm_id, None)


async def test_a_silent_series_stays_so_when_redis_is_lost(stack, ingestion):
    organization = await stack.organization(condition=NoData(0.5))
    async with stack.history(), stack.analysis():
        last = await stack.send(organization, 1.0)
        (raised,) = await stack.until_told(organization, 1)
        await stack.until_acknowledged(organization, last)
        await stack.lose_redis()
        await stack.until_acknowledged(organization, await stack.send(organization, 2.0))
        _, cleared, *_ = await stack.until_told(organization, 2)
        assert cleared.alarm_id == raised.alarm_id

"""What people and the clock add, and what suppresses it, in a real PostgreSQL."""

from __future__ import annotations

import asyncio
import datetime as dt
import uuid

import msgspec
import pytest

from iotplatform.adapters.postgres.alarm_actions import AlarmActions
from iotplatform.adapters.postgres.alarm_history import AlarmHistory
from iotplatform.adapters.postgres.announcements import Announcements
from iotplatform.adapters.postgres.outgoing import Attempt
from iotplatform.domain.announcement import AlarmAcknowledged, AlarmReminder, decode_announcement

AT = "2026-01-31T12:00:00.000000Z"


@pytest.fixture
async def announcements(database):
    await database.pool.execute("UPDATE alarms SET remind_at = NULL")
    await database.pool.execute("UPDATE alarm_events SET announce = false")
    return Announcements(database)


@pytest.fixture
def actions(database):
    return AlarmActions(database)


@pytest.fixture
def write(database):
    """Writes transitions into the alarm history, as persistence does."""
    history = AlarmHistory(database)

    async def do(*transitions):
        position = await history.position()
        await history.write(position, position + 1, transitions)

    return do


@pytest.fixture
def rule(database):
    async def make(epoch, **definition):
        await database.pool.execute(
            "INSERT INTO rules (epoch, id, definition) VALUES ($1, 'r1', $2)"
            " ON CONFLICT (epoch, id) DO UPDATE SET definition = $2",
            epoch,
            msgspec.json.encode(definition).decode(),
        )

    return make


@pytest.fixture
def pass_time(database):
    """Lets so many seconds go by, for reminders and snoozes."""

    async def do(epoch, seconds):
        await database.pool.execute(
            "UPDATE alarms SET remind_at = remind_at - $2::interval, snoozed_until = snoozed_until - $2::interval"
            " WHERE epoch = $1",
            epoch,
            dt.timedelta(seconds=seconds),
        )

    return do


@pytest.fixture
def window(database):
    async def make(epoch, *, start_s=-60, end_s=60, ids=(), tags=(), rules=()):
        await database.pool.execute(
            "INSERT INTO maintenance_windows (epoch, id, name, starts_at, ends_at, device_ids, device_tags, rule_ids,"
            " created_by)"
            " VALUES ($1, 'w', 'Oven rebuilt', now() + $2::interval, now() + $3::interval, $4, $5, $6, 'x')",
            epoch,
            dt.timedelta(seconds=start_s),
            dt.timedelta(seconds=end_s),
            list(ids),
            list(tags),
            list(rules),
        )

    return make


def told(rows, transition):
    return [row for row in rows if row["transition"] == transition]


def detail(row):
    return msgspec.json.decode(row["attempts"])[-1]["detail"]


async def everything(announcements):
    while await announcements.announce_acknowledged() + await announcements.remind():
        pass


async def test_an_acknowledgement_is_announced_once(announcements, actions, organization, write, rows, raised):
    epoch = await organization(log={}, critical={"severities": ["critical"]})
    alarm = raised(epoch)
    await write(alarm)
    assert await actions.acknowledge(epoch, [uuid.UUID(alarm.alarm_id)], "kim", "on my way") == [
        uuid.UUID(alarm.alarm_id)
    ]
    await asyncio.gather(*(announcements.announce_acknowledged() for _ in range(4)))
    await announcements.announce_acknowledged()
    (row,) = await rows(epoch)
    assert (row["transition"], row["channel_id"], row["state"], row["number"]) == ("acknowledged", "log", "pending", 0)
    told = decode_announcement(row["event"].encode())
    assert isinstance(told, AlarmAcknowledged)
    assert (told.acknowledged_by, told.comment, told.rule_name, told.raised_at) == ("kim", "on my way", "Too hot", 3)


async def test_reminders_until_somebody_acknowledges(
    announcements, *, actions, organization, rule, write, rows, raised, pass_time, database
):
    epoch = await organization(log={})
    await rule(epoch, reminder_s=60)
    alarm = raised(epoch)
    await write(alarm)
    await everything(announcements)
    assert await rows(epoch) == []
    for number in (1, 2):
        await pass_time(epoch, 61)
        assert sorted(await asyncio.gather(*(announcements.remind() for _ in range(4)))) == [0, 0, 0, 1]
        (*_, row) = sorted(await rows(epoch), key=lambda row: row["number"])
        told_of = decode_announcement(row["event"].encode())
        assert isinstance(told_of, AlarmReminder)
        assert (told_of.number, row["number"], told_of.trigger_value) == (number, number, 90.5)
        await database.pool.execute("UPDATE deliveries SET state = 'sent' WHERE epoch = $1", epoch)
    await actions.acknowledge(epoch, [uuid.UUID(alarm.alarm_id)], "kim", None)
    await pass_time(epoch, 61)
    assert await announcements.remind() == 0
    events = await database.pool.fetch("SELECT kind, detail FROM alarm_events WHERE epoch = $1 ORDER BY id", epoch)
    assert [event["kind"] for event in events] == ["raised", "reminder", "reminder", "acknowledged"]
    assert msgspec.json.decode(events[2]["detail"]) == {"number": 2}


async def test_a_cleared_alarm_is_not_reminded_of(
    announcements, organization, rule, write, rows, raised, cleared, pass_time
):
    epoch = await organization(log={})
    await rule(epoch, reminder_s=60)
    alarm = raised(epoch)
    await write(alarm)
    await pass_time(epoch, 61)
    await everything(announcements)
    await write(cleared(alarm))
    await pass_time(epoch, 61)
    assert await announcements.remind() == 0
    (row,) = await rows(epoch)
    # It was still waiting when the alarm was cleared.
    assert (row["state"], detail(row)) == ("suppressed", "the alarm was cleared")


async def test_what_was_missed_is_not_made_up_for(announcements, organization, rule, write, rows, raised, pass_time):
    epoch = await organization(log={})
    await rule(epoch, reminder_s=60)
    await write(raised(epoch))
    await pass_time(epoch, 100_000)
    await everything(announcements)
    assert len(await rows(epoch)) == 1


async def test_a_channel_that_is_away_gathers_no_reminders(
    announcements, organization, record, rule, write, rows, raised, pass_time
):
    epoch = await organization(log={})
    await rule(epoch, reminder_s=60)
    alarm = raised(epoch)
    await record(alarm)
    await write(alarm)
    await pass_time(epoch, 61)
    await everything(announcements)
    (row,) = told(await rows(epoch), "reminder")
    assert (row["state"], detail(row)) == ("suppressed", "an earlier notification of the alarm is still on its way")


async def test_a_rule_that_changes_its_mind(announcements, organization, rule, write, rows, raised, pass_time):
    epoch = await organization(log={})
    await rule(epoch, sensor="temp")
    await write(raised(epoch))
    await pass_time(epoch, 1_000)
    await everything(announcements)
    assert await rows(epoch) == []
    await rule(epoch, sensor="temp", reminder_s=60)
    await pass_time(epoch, 61)
    await everything(announcements)
    assert len(await rows(epoch)) == 1
    await rule(epoch, sensor="temp")
    await pass_time(epoch, 61)
    await everything(announcements)
    assert len(await rows(epoch)) == 1


async def test_a_snoozed_alarm(
    announcements, *, actions, organization, record, rule, write, rows, raised, cleared, pass_time
):
    epoch = await organization(log={})
    await rule(epoch, reminder_s=60)
    alarm = raised(epoch)
    await write(alarm)
    until = dt.datetime.now(dt.UTC) + dt.timedelta(seconds=1_000)
    assert await actions.snooze(epoch, uuid.UUID(alarm.alarm_id), "kim", until, AT)
    await pass_time(epoch, 900)
    await everything(announcements)
    assert await rows(epoch) == []
    await record(cleared(alarm))
    (row,) = await rows(epoch)
    assert row["state"] == "suppressed"
    assert detail(row).startswith("the alarm is snoozed until 20")
    # Nothing was cleared in the history: when the snooze is over, the reminder comes.
    await pass_time(epoch, 101)
    await everything(announcements)
    (row,) = told(await rows(epoch), "reminder")
    assert row["state"] == "pending"


async def test_a_snooze_stops_a_reminder_that_is_waiting(
    announcements, *, actions, organization, rule, write, rows, raised, pass_time
):
    epoch = await organization(log={})
    await rule(epoch, reminder_s=60)
    alarm = raised(epoch)
    await write(alarm)
    await pass_time(epoch, 61)
    await everything(announcements)
    until = dt.datetime.now(dt.UTC) + dt.timedelta(seconds=1_000)
    await actions.snooze(epoch, uuid.UUID(alarm.alarm_id), "kim", until, AT)
    (row,) = await rows(epoch)
    assert (row["state"], detail(row)) == ("suppressed", "the alarm was snoozed")


async def test_what_was_sent_in_spite_of_it_was_sent(
    announcements, *, actions, outgoing, organization, rule, write, rows, claim, raised, pass_time
):
    epoch = await organization(log={})
    await rule(epoch, reminder_s=60)
    alarm = raised(epoch)
    await write(alarm)
    await pass_time(epoch, 61)
    await everything(announcements)
    (delivery,) = await claim()
    await actions.acknowledge(epoch, [uuid.UUID(alarm.alarm_id)], "kim", None)
    await outgoing.finish(delivery, "sent", Attempt(AT, "sent", ""), again_s=0.0)
    (row,) = told(await rows(epoch), "reminder")
    assert row["state"] == "sent"


@pytest.mark.parametrize(
    ("limits", "covered"),
    [
        ({}, True),
        ({"ids": ["machine-1"]}, True),
        ({"ids": ["machine-2"]}, False),
        ({"tags": ["hall-1"]}, True),
        ({"tags": ["hall-1", "hot"]}, True),
        ({"tags": ["hall-1", "cold"]}, False),
        ({"ids": ["machine-2"], "tags": ["hot"]}, True),
        ({"rules": ["r1"]}, True),
        ({"rules": ["r2"]}, False),
        ({"rules": ["r2"], "ids": ["machine-1"]}, False),
        ({"start_s": 30}, False),
        ({"end_s": -30}, False),
    ],
)
async def test_a_maintenance_window(database, *, organization, record, claim, window, rows, raised, limits, covered):
    epoch = await organization(log={})
    await database.pool.execute(
        "INSERT INTO devices (epoch, id, name, tags) VALUES ($1, 'machine-1', 'M', '{hall-1,hot}')", epoch
    )
    await window(epoch, **limits)
    assert await record(raised(epoch)) == (0 if covered else 1)
    (row,) = await rows(epoch)
    assert row["state"] == ("suppressed" if covered else "pending")
    if covered:
        assert detail(row) == "maintenance window w: Oven rebuilt"
        assert row["next_attempt_at"] is None
        assert await claim() == []


async def test_a_window_of_another_organization(organization, record, window, rows, raised):
    mine, other = await organization(log={}), await organization(log={})
    await window(other)
    await record(raised(mine), raised(other))
    assert [row["state"] for row in (*await rows(mine), *await rows(other))] == ["pending", "suppressed"]


async def test_an_organization_that_is_being_deleted_holds_nobody_up(
    database, announcements, actions, organization, write, rows, raised
):
    gone, stays = await organization(log={}), await organization(log={})
    for epoch in (gone, stays):
        alarm = raised(epoch)
        await write(alarm)
        await actions.acknowledge(epoch, [uuid.UUID(alarm.alarm_id)], "kim", None)
    async with database.pool.acquire() as connection:
        transaction = connection.transaction()
        await transaction.start()
        await connection.execute("SELECT FROM organizations WHERE epoch = $1 FOR UPDATE", gone)
        async with asyncio.timeout(10):
            assert await announcements.announce_acknowledged() == 1
        await transaction.rollback()
    assert len(await rows(stays)) == 1
    assert await announcements.announce_acknowledged() == 1


async def test_two_processes_that_race_make_one_alarm(database, organization, write, raised):
    """The index stands behind it: whoever raises a second one for the series adds nothing."""
    epoch = await organization(log={})
    history = AlarmHistory(database)
    position = await history.position()
    await asyncio.gather(
        *(history.write(position, position + 1, [raised(epoch)]) for _ in range(4)), return_exceptions=True
    )
    await write(raised(epoch, position=8))
    assert await database.pool.fetchval("SELECT count(*) FROM alarms WHERE epoch = $1", epoch) == 1
    assert await database.pool.fetchval("SELECT count(*) FROM alarm_events WHERE epoch = $1", epoch) == 1

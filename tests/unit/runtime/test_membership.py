"""The view of who shares the work: when it is acted upon, and when it is not."""

from __future__ import annotations

import asyncio
import datetime as dt

import pytest

from iotplatform.errors import Unavailable
from iotplatform.runtime import membership as membership_module
from iotplatform.runtime.membership import DEAD_AFTER_S, FROZEN_AFTER_S, Beat, Membership, Roll


class Table:
    """The roll in memory; `at` is its own clock."""

    def __init__(self):
        self.at = 0.0
        self.rows = {}
        self.away = False
        self.beats = 0
        self.during = None

    async def beat(self, member_id, since):
        self.beats += 1
        if self.away:
            raise Unavailable("the database is not reachable")
        old = self.rows.get(member_id)
        live = frozenset(name for name, (_, seen) in self.rows.items() if self.at - seen < DEAD_AFTER_S)
        listed = frozenset(self.rows)
        joined = old[0] if old and since else dt.datetime.fromtimestamp(self.beats, dt.UTC)
        self.rows[member_id] = (joined, self.at)
        if self.during is not None:
            self.during()
        return Beat(joined, live, listed, superseded=bool(old and since and old[0] != since))

    async def leave(self, member_id):
        if self.away:
            raise Unavailable("the database is not reachable")
        self.rows.pop(member_id, None)


class Stage:
    def __init__(self):
        self.table = Table()
        self.now = 100.0
        self.changes = []
        self.thawed = 0

    def member(self, own_id="a"):
        made = Membership("analysis", own_id, Roll(self.table.beat, self.table.leave), clock=lambda: self.now)
        made.on_change(lambda: self.changes.append(set(made.members)))
        made.on_thawed(self._thaw)
        return made

    def _thaw(self):
        self.thawed += 1

    def someone(self, name):
        """Another member that has just been heard of."""
        joined = self.table.rows.get(name, (dt.datetime.fromtimestamp(0, dt.UTC), 0))[0]
        self.table.rows[name] = (joined, self.table.at)

    async def pass_time(self, member, seconds, *others):
        """With a beat of `member` every second, and of `others` too."""
        for _ in range(seconds):
            self.now += 1
            self.table.at += 1
            for other in others:
                self.someone(other)
            await member._beat()


@pytest.fixture
def stage():
    return Stage()


async def test_a_member_sees_who_else_is_alive(stage):
    stage.someone("b")
    member = stage.member()
    assert not member.owns("x")
    await member.join()
    assert stage.changes == [{"a", "b"}]
    assert member.found == {"b"}
    assert {member.owns(f"key-{number}") for number in range(20)} == {True, False}
    await stage.pass_time(member, 4, "b")
    assert stage.changes == [{"a", "b"}]


async def test_one_that_is_silent_is_dead_and_one_that_leaves_is_gone(stage):
    member = stage.member()
    stage.someone("b")
    stage.someone("c")
    await member.join()
    await stage.pass_time(member, 5, "c")
    assert stage.changes[-1] == {"a", "b", "c"}
    await stage.pass_time(member, 2, "c")
    assert stage.changes[-1] == {"a", "c"}
    await stage.table.leave("c")
    await member._beat()
    assert stage.changes[-1] == {"a"}


async def test_who_is_back_before_anybody_missed_him_finds_himself(stage):
    await stage.member().join()
    again = stage.member()
    await again.join()
    assert again.found == {"a"}


async def test_joining_waits_for_the_roll(stage):
    stage.table.away = True
    member = stage.member()
    joining = asyncio.get_running_loop().create_task(member.join())
    while not stage.table.beats:  # noqa: ASYNC110
        await asyncio.sleep(0.01)
    stage.table.away = False
    await joining
    assert member.members == {"a"}


async def test_while_the_roll_is_away_the_last_view_stays_in_force(stage):
    member = stage.member()
    stage.someone("b")
    await member.join()
    stage.table.away = True
    await stage.pass_time(member, 20)
    await member.confirm(stage.now)
    assert member.members == {"a", "b"}
    # When it is back, the others have had no chance yet to say that they are alive.
    stage.table.away = False
    await stage.pass_time(member, 3)
    assert member.members == {"a", "b"}
    await stage.pass_time(member, int(DEAD_AFTER_S))
    assert member.members == {"a"}
    assert stage.thawed == 0


async def test_who_left_while_the_roll_was_away_is_not_waited_for(stage):
    member = stage.member()
    stage.someone("b")
    await member.join()
    stage.table.away = True
    await stage.pass_time(member, 20)
    stage.table.away = False
    await stage.table.leave("b")
    await stage.pass_time(member, 1)
    assert member.members == {"a"}


async def test_one_look_serves_all_who_wait(stage):
    member = stage.member()
    await member.join()
    stage.now += 1
    before = stage.table.beats
    await asyncio.gather(*(member.confirm(stage.now) for _ in range(50)))
    assert stage.table.beats == before + 1
    await member.confirm(stage.now)
    assert stage.table.beats == before + 1


async def test_in_doubt_only_a_look_of_now_will_do(stage):
    member = stage.member()
    await member.join()
    stage.table.away = True
    member.doubt()
    with pytest.raises(Unavailable):
        await member.confirm(stage.now)
    stage.table.away = False
    stage.now += 1
    stage.someone("b")
    await member.confirm(stage.now)
    assert member.members == {"a", "b"}


async def test_after_a_freeze_nothing_is_confirmed_without_a_look(stage):
    member = stage.member()
    await member.join()
    stage.now += FROZEN_AFTER_S + 5
    stage.table.at += FROZEN_AFTER_S + 5
    stage.table.away = True
    with pytest.raises(Unavailable):
        await member.confirm(0.0)
    # Nor does a beat that fails make the view any newer.
    await member._beat()
    with pytest.raises(Unavailable):
        await member.confirm(0.0)
    stage.table.away = False
    stage.now += 1
    stage.someone("b")
    await member.confirm(0.0)
    assert member.members == {"a", "b"}
    assert stage.thawed == 1


async def test_a_short_freeze_that_nobody_noticed_takes_nothing_back(stage):
    member = stage.member()
    await member.join()
    stage.now += FROZEN_AFTER_S + 0.5
    stage.table.at += FROZEN_AFTER_S + 0.5
    await member.confirm(0.0)
    assert stage.thawed == 0


async def test_an_answer_of_before_a_freeze_is_worth_nothing(stage):
    member = stage.member()
    await member.join()

    def freeze():
        stage.table.during = None
        stage.now += 60
        stage.table.at += 60
        stage.someone("b")

    stage.table.during = freeze
    await member._beat()
    assert member.members == {"a"}
    await member.confirm(0.0)
    assert member.members == {"a", "b"}
    assert stage.thawed == 1


async def test_two_processes_with_one_id_do_not_fight(stage):
    first, second = stage.member("a"), stage.member("a")
    await first.join()
    stage.now += 1
    await second.join()
    await first._beat()
    # It has been told, and is not a member again before it has joined under another id.
    stage.table.away = True
    stage.now += 1
    with pytest.raises(Unavailable):
        await first.confirm(0.0)
    stage.table.away = False
    stage.now += 1
    await first.confirm(0.0)
    await second._beat()
    assert first.own_id != second.own_id == "a"
    assert first.members == second.members == {first.own_id, "a"}


async def test_a_nudge_is_a_look_at_once(stage, monkeypatch):
    monkeypatch.setattr(membership_module, "BEAT_EVERY_S", 3600.0)
    member = stage.member()
    await member.join()
    changed = asyncio.Event()
    member.on_change(changed.set)
    running = asyncio.get_running_loop().create_task(member.run())
    stage.someone("b")
    member.nudge()
    async with asyncio.timeout(10):
        await changed.wait()
    running.cancel()
    assert member.members == {"a", "b"}


async def test_leaving(stage):
    member = stage.member()
    await member.join()
    await member.leave()
    assert stage.table.rows == {}
    # What is still under way does not make it a member again.
    stage.now += 1
    with pytest.raises(Unavailable):
        await member.confirm(stage.now)
    assert stage.table.rows == {}
    stage.table.away = True
    await member.leave()

"""Tasks have an owner, and their death is noticed."""

from __future__ import annotations

import asyncio

import pytest
from structlog.testing import capture_logs

from iotplatform.runtime.tasks import TaskDied, Tasks


@pytest.fixture
async def tasks():
    owned = Tasks("owner")
    yield owned
    await owned.stop()


async def forever():
    await asyncio.Event().wait()


async def ends():
    return


async def fails():
    raise ValueError("broken")


async def died(tasks):
    async with asyncio.timeout(5):
        with pytest.raises(TaskDied) as caught:
            await tasks.wait()
    return caught.value


async def lives(tasks):
    """Whether nothing has died by the time everything that can run has run."""
    waiting = asyncio.get_running_loop().create_task(tasks.wait())
    for _ in range(5):
        await asyncio.sleep(0)
    alive = not waiting.done()
    waiting.cancel()
    return alive


async def test_a_started_task_that_fails_is_a_death_with_its_cause(tasks):
    tasks.start(forever(), "lives")
    tasks.start(fails(), "breaks")
    error = await died(tasks)
    assert "owner.breaks" in str(error)
    assert isinstance(error.__cause__, ValueError)


async def test_a_started_task_that_ends_is_a_death_too(tasks):
    tasks.start(ends(), "ends")
    assert "owner.ends ended by itself" in str(await died(tasks))


@pytest.mark.parametrize("how", ["start", "spawn"])
async def test_a_task_that_somebody_else_cancels_is_a_death_too(tasks, how):
    """nats-py cancels what waits in it when it closes: a role must not go on without its task."""
    getattr(tasks, how)(forever(), "cancelled").cancel()
    assert "owner.cancelled" in str(await died(tasks))


async def test_a_spawned_task_may_end(tasks):
    done = tasks.spawn(ends(), "work")
    await done
    assert await lives(tasks)
    assert done not in tasks._tasks


async def test_a_spawned_task_must_not_fail(tasks):
    tasks.spawn(fails(), "work")
    assert isinstance((await died(tasks)).__cause__, ValueError)


async def test_a_death_before_anybody_waits_is_not_forgotten(tasks):
    await asyncio.wait([tasks.start(fails(), "early")])
    await died(tasks)
    # And everybody who waits learns of it.
    await died(tasks)


async def test_the_first_death_is_told(tasks):
    first = tasks.start(fails(), "first")
    await asyncio.wait([first])
    await asyncio.wait([tasks.start(ends(), "second")])
    assert "owner.first" in str(await died(tasks))


async def test_who_stops_waiting_takes_nothing_from_the_others(tasks):
    impatient = asyncio.get_running_loop().create_task(tasks.wait())
    await asyncio.sleep(0)
    impatient.cancel()
    await asyncio.wait([impatient])
    tasks.start(ends(), "ends")
    await died(tasks)


class TestStopping:
    async def test_ends_every_task_and_is_no_death(self):
        tasks = Tasks("owner")
        made = [tasks.start(forever(), "a"), tasks.spawn(forever(), "b")]
        await asyncio.sleep(0)
        await tasks.stop()
        assert all(task.cancelled() for task in made)
        assert await lives(tasks)
        await tasks.stop()

    async def test_waits_for_what_a_task_has_to_put_away(self):
        tasks, put_away = Tasks("owner"), []

        async def tidy():
            try:
                await forever()
            finally:
                await asyncio.sleep(0.01)
                put_away.append(1)

        tasks.start(tidy(), "tidy")
        await asyncio.sleep(0)
        await tasks.stop()
        assert put_away == [1]

    async def test_an_error_while_stopping_is_no_death(self):
        tasks = Tasks("owner")

        async def stumbles():
            try:
                await forever()
            except asyncio.CancelledError:
                raise ValueError("on the way out") from None

        task = tasks.start(stumbles(), "stumbles")
        await asyncio.sleep(0)
        await tasks.stop()
        assert isinstance(task.exception(), ValueError)
        assert await lives(tasks)

    async def test_does_not_wait_for_ever(self):
        tasks, release = Tasks("owner"), asyncio.Event()

        async def stubborn():
            while not release.is_set():
                try:
                    await release.wait()
                except asyncio.CancelledError:
                    continue

        task = tasks.start(stubborn(), "stubborn")
        await asyncio.sleep(0)
        with capture_logs() as lines:
            await tasks.stop(deadline_s=0.01)
        assert [(line["event"], line["task"]) for line in lines] == [("task.stuck", "owner.stubborn")]
        release.set()
        await task


async def test_a_cancellation_that_was_swallowed_on_its_way_is_said_again():
    tasks = Tasks("owner")
    swallowed = asyncio.Event()

    async def deaf_once():
        while True:
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                if swallowed.is_set():
                    raise
                swallowed.set()

    task = tasks.start(deaf_once(), "deaf")
    await asyncio.sleep(0)
    await tasks.stop(30)
    assert swallowed.is_set()
    assert task.cancelled()

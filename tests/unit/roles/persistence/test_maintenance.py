"""Of the processes that share persistence, one cares for an organization, and one for what belongs to none."""

from __future__ import annotations

import asyncio

import pytest

from iotplatform.domain.organization import Organization
from iotplatform.roles.persistence import maintenance
from iotplatform.roles.persistence.maintenance import Duties, Maintenance

ORGANIZATIONS = [Organization(f"org-{epoch}", epoch, "A Corp", 4, 0) for epoch in range(1, 21)]


class Process:
    """What a member of the role holds, and what it does because of that."""

    def __init__(self, held, *, holds_notifications):
        self.readings = self.partitions = self.latest = self.alarms = self
        self.is_holder = holds_notifications
        self.cared_for = set()
        self.fitted = set()
        self.filled = set()
        self.duties = set()
        self.rounds = asyncio.Semaphore(0)
        self._held = held
        duties = Duties(
            self.duty("fold"), self.duty("removals"), self.duty("devices"), self.duty("orphans"), self.duty("prune")
        )
        self.maintenance = Maintenance(self, self, self, duties, self)

    def holds_partition(self, epoch, number):
        return (epoch, number) in self._held

    def organizations(self):
        self.rounds.release()
        return ORGANIZATIONS

    async def fill(self, epoch):
        self.filled.add(epoch)

    async def care_for(self, organization):
        self.cared_for.add(organization.epoch)

    async def fit(self, organizations):
        self.fitted.update(organization.epoch for organization in organizations)

    async def trim_notifications(self):
        self.duties.add("trim")

    async def refresh(self):
        self.duties.add("audit")

    def forget(self):
        self.duties.add("forget")

    def duty(self, name):
        async def do():
            self.duties.add(name)

        return do


@pytest.fixture
def at_once(monkeypatch):
    monkeypatch.setattr(maintenance, "EVERY_S", 0.01)


async def test_each_organization_is_cared_for_by_the_holder_of_its_first_partition(at_once):
    everything = {(organization.epoch, number) for organization in ORGANIZATIONS for number in range(4)}
    first_half = {(epoch, number) for epoch, number in everything if (epoch + number) % 2}
    processes = [
        Process(first_half, holds_notifications=False),
        Process(everything - first_half, holds_notifications=True),
    ]
    for process in processes:
        running = asyncio.get_running_loop().create_task(process.maintenance.run())
        async with asyncio.timeout(10):
            # With the third round the second one is over.
            for _ in range(3):
                await process.rounds.acquire()
        running.cancel()
    first, second = processes
    assert (first.fitted, second.fitted) == (first.cared_for, second.cared_for)
    assert first.cared_for == first.filled == {epoch for epoch in range(1, 21) if epoch % 2}
    assert second.cared_for == second.filled == {epoch for epoch in range(1, 21) if epoch % 2 == 0}
    assert first.duties == {"forget"}
    assert second.duties == {"trim", "fold", "removals", "devices", "orphans", "prune", "audit"}


async def test_many_organizations_take_turns(at_once, monkeypatch):
    monkeypatch.setattr(maintenance, "CARED_FOR_AT_ONCE", 7)
    process = Process({(organization.epoch, 0) for organization in ORGANIZATIONS}, holds_notifications=False)
    sizes = []
    running = asyncio.get_running_loop().create_task(process.maintenance.run())
    async with asyncio.timeout(10):
        # Nothing in a round lets go of the event loop, so each is over when it is seen.
        for _ in range(3):
            await process.rounds.acquire()
            sizes.append(len(process.cared_for))
    running.cancel()
    assert sizes == [7, 14, 20]

"""Of the processes that share persistence, one maintains an organization, and one the stream NOTIFICATIONS."""

from __future__ import annotations

import asyncio

import pytest

from iotplatform.domain.organization import Organization
from iotplatform.roles.persistence import maintenance

ORGANIZATIONS = [Organization(f"org-{epoch}", epoch, "A Corp", 4, 0) for epoch in range(1, 21)]


class Process:
    """What a member of the role holds, and what it trims and fills because of that."""

    def __init__(self, held, *, holds_notifications):
        self.partitions = self
        self.is_holder = holds_notifications
        self.trimmed = []
        self.filled = []
        self.rounds = asyncio.Semaphore(0)
        self._held = held

    def holds_partition(self, epoch, number):
        return (epoch, number) in self._held

    def organizations(self):
        return ORGANIZATIONS

    async def fill_latest(self, epoch):
        self.filled.append(epoch)

    async def trim(self, organization):
        self.trimmed.append(organization.epoch)
        if organization.epoch == max(epoch for epoch, number in self._held if number == 0):
            self.rounds.release()

    async def trim_notifications(self):
        self.trimmed.append("NOTIFICATIONS")


@pytest.fixture
def at_once(monkeypatch):
    monkeypatch.setattr(maintenance, "EVERY_S", 0.01)


async def test_each_organization_is_maintained_by_the_holder_of_its_first_partition(at_once):
    everything = {(organization.epoch, number) for organization in ORGANIZATIONS for number in range(4)}
    first_half = {(epoch, number) for epoch, number in everything if (epoch + number) % 2}
    processes = [
        Process(first_half, holds_notifications=False),
        Process(everything - first_half, holds_notifications=True),
    ]
    for process in processes:
        running = asyncio.get_running_loop().create_task(maintenance.maintain(process, process, process, process))
        async with asyncio.timeout(10):
            await process.rounds.acquire()
            await process.rounds.acquire()
        running.cancel()
    first, second = (set(process.trimmed) for process in processes)
    assert first == {epoch for epoch in range(1, 21) if epoch % 2}
    assert second == {epoch for epoch in range(1, 21) if epoch % 2 == 0} | {"NOTIFICATIONS"}
    assert set(processes[0].filled) == first

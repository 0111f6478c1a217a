"""The persistence role: readings, alarm history, and the maintenance of streams, lanes, history and gauges."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Final

from iotplatform.roles.persistence.alarms import AlarmWriter
from iotplatform.roles.persistence.frozen import end_frozen_sessions_again_and_again
from iotplatform.roles.persistence.history_care import HistoryCare
from iotplatform.roles.persistence.maintenance import Maintenance
from iotplatform.roles.persistence.readings import ReadingWriter
from iotplatform.roles.persistence.rollup_care import RollupCare
from iotplatform.runtime.membership import Membership
from iotplatform.runtime.tasks import Tasks

STOP_S: Final = 5.0


class PersistenceRole:
    name = "persistence"

    def __init__(
        self,
        readings: ReadingWriter,
        alarms: AlarmWriter,
        maintenance: Maintenance,
        rollups: RollupCare | None,
        history: HistoryCare,
        membership: Membership,
        end_frozen_sessions: Callable[[], Awaitable[int]],
    ) -> None:
        self.readings = readings
        self.alarms = alarms
        self._maintenance = maintenance
        self._rollups = rollups
        self._history = history
        self._membership = membership
        self._end_frozen_sessions = end_frozen_sessions
        self._tasks = Tasks(self.name)

    async def start(self) -> None:
        await self._membership.join()
        await self.readings.start()
        await self.alarms.start()
        self._tasks.start(self._membership.run(), "membership")
        self._tasks.start(self.readings.wait(), "readings")
        self._tasks.start(self.alarms.wait(), "alarms")
        self._tasks.start(self._maintenance.run(), "maintenance")
        self._tasks.start(self._history.make(), "partitions")
        self._tasks.start(self._history.expire(), "retention")
        if self._rollups is not None:
            self._tasks.start(self._rollups.run(), "rollups")
        self._tasks.start(self._history.pack(), "packing")
        self._tasks.start(end_frozen_sessions_again_and_again(self._end_frozen_sessions), "frozen sessions")

    async def wait(self) -> None:
        await self._tasks.wait()

    async def stop(self) -> None:
        await self._tasks.stop(STOP_S)
        await self.readings.stop()
        await self.alarms.stop()
        await self._membership.leave()

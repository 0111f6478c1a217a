"""The management role beside its routes: rule packs reach the organizations that have them, and live streams hear what
is new.
"""

from __future__ import annotations

import asyncio
from typing import Final

import structlog

from iotplatform.adapters.postgres import rule_pack_changes
from iotplatform.adapters.postgres.changes import EVERYTHING, Change
from iotplatform.adapters.postgres.connection import Database
from iotplatform.errors import Rejected, Unavailable
from iotplatform.roles.management.live_streams import LiveStreams
from iotplatform.runtime.backoff import Backoff
from iotplatform.runtime.tasks import Tasks

log = structlog.get_logger(role="management")

LOOK_AGAIN_S: Final = 30.0
AT_ONCE: Final = 50


class ManagementRole:
    """Any number of processes may do this at once: of an organization's rules only one changes at a time."""

    name = "management"

    def __init__(self, database: Database, live: LiveStreams) -> None:
        self._database = database
        self._live = live
        self._tasks = Tasks(self.name)
        self._wake = asyncio.Event()

    async def changed(self, changes: list[Change]) -> None:
        """What the change feed calls."""
        if any(change.kind == "rule_pack" or change == EVERYTHING for change in changes):
            self._wake.set()

    async def start(self) -> None:
        self._tasks.start(self._keep_packs(), "rule_packs")
        self._tasks.start(self._live.run(), "live")

    async def wait(self) -> None:
        await self._tasks.wait()

    async def stop(self) -> None:
        await self._tasks.stop()

    async def _keep_packs(self) -> None:
        backoff = Backoff(most_s=10.0)
        while True:
            self._wake.clear()
            try:
                await self._catch_up()
                backoff.reset()
            except Unavailable as error:
                log.warning("management.waiting", detail=error.detail)
                await backoff.wait()
                continue
            try:
                async with asyncio.timeout(LOOK_AGAIN_S):
                    await self._wake.wait()
            except TimeoutError:
                pass

    async def _catch_up(self) -> None:
        """Until every organization has, or could not get, the newest version of its packs."""
        while waiting := await rule_pack_changes.due(self._database, AT_ONCE):
            for due in waiting:
                try:
                    fault = await rule_pack_changes.catch_up(self._database, due)
                except Rejected:
                    # The organization is being deleted, and the pack's row of it with it.
                    await asyncio.sleep(0.1)
                    continue
                fields = {"organization": due.organization_id, "rule_pack": due.pack_id}
                if fault is None:
                    log.info("management.rule_pack_applied", **fields)
                else:
                    log.warning("management.rule_pack_failed", **fields, detail=fault)

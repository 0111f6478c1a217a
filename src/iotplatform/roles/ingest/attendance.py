"""Who is there: noted on the way of the readings, and written down aside, in few statements for many devices."""

from __future__ import annotations

import asyncio
import datetime as dt
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Final, TypeVar

import structlog

from iotplatform.adapters.postgres.directory import Directory
from iotplatform.adapters.postgres.presence import Device
from iotplatform.adapters.postgres.presence import Presence as PresenceRows
from iotplatform.domain.reading import Reading
from iotplatform.domain.timestamps import to_datetime
from iotplatform.errors import Unavailable
from iotplatform.roles.ingest.entrance import Sign

log = structlog.get_logger(role="ingest")

T = TypeVar("T")
LiveSigns = Callable[[], Iterable[Sign]]

FLUSH_EVERY_S: Final = 1.0
# A device that sends all the time is written down this often, and no oftener.
AGAIN_AFTER_S: Final = 30.0
MAX_KNOWN: Final = 200_000
BATCH: Final = 5_000


class Seen:
    """What hot paths note: the time of arrival by device, until it is written down."""

    __slots__ = ("devices",)

    def __init__(self) -> None:
        self.devices: dict[Device, int] = {}

    def note(self, epoch: int, readings: list[Reading], arrived_at: int) -> None:
        devices = self.devices
        if len(readings) == 1:
            devices[epoch, readings[0].device_id] = arrived_at
        else:
            for device_id in {reading.device_id for reading in readings}:
                devices[epoch, device_id] = arrived_at


class PresenceKeeper:
    """Each process writes down whom it has heard; one of them, the owner, who is connected."""

    def __init__(self, rows: PresenceRows, directory: Directory, seen: Seen, is_owner: Callable[[], bool]) -> None:
        self._rows = rows
        self._directory = directory
        self._seen = seen
        self._is_owner = is_owner
        self._was_owner = False
        self._written: dict[Device, float] = {}
        self._changed: dict[tuple[str, str], dt.datetime] = {}
        self._all_listed = False

    def changed(self, sign: Sign) -> None:
        """A connection of this device has come or gone."""
        if sign.device_id:
            self._changed[sign.organization_id, sign.device_id] = dt.datetime.now(dt.UTC)

    def listed(self) -> None:
        self._all_listed = True

    async def run(self, signs: LiveSigns) -> None:
        """Until cancelled. What can't be written now is written later."""
        while True:
            await asyncio.sleep(FLUSH_EVERY_S)
            try:
                await self._flush_connections(signs())
                await self._flush_seen()
            except Unavailable as error:
                log.debug("presence.waiting", detail=error.detail)

    async def _flush_connections(self, signs: Iterable[Sign]) -> None:
        if not self._is_owner():
            self._was_owner = False
            self._changed.clear()
            return
        if not self._was_owner:
            # What its predecessor may have missed.
            self._was_owner = self._all_listed = True
        if not self._changed and not self._all_listed:
            return
        live = {(sign.organization_id, sign.device_id) for sign in signs if sign.device_id}
        changed, self._changed = self._changed, {}
        all_listed, self._all_listed = self._all_listed, False
        if all_listed:
            changed = dict.fromkeys(live, dt.datetime.now(dt.UTC)) | changed
        try:
            known: dict[tuple[str, str], Device] = {}
            for names in changed:
                device = await self._device_of(*names)
                if device is not None:
                    known[names] = device
            for some in _batches(list(known.items())):
                await self._rows.connected((device, names in live, changed[names]) for names, device in some)
            if all_listed:
                await self._rows.only({device for names, device in known.items() if names in live})
        except Unavailable:
            self._changed = changed | self._changed
            self._all_listed = self._all_listed or all_listed
            raise

    async def _flush_seen(self) -> None:
        seen, self._seen.devices = self._seen.devices, {}
        now = time.monotonic()
        if len(self._written) > MAX_KNOWN:
            self._written.clear()
        due = [(device, at) for device, at in seen.items() if now >= self._written.get(device, 0.0)]
        for some in _batches(due):
            await self._rows.seen((device, to_datetime(at)) for device, at in some)
            for device, _ in some:
                self._written[device] = now + AGAIN_AFTER_S

    async def _device_of(self, organization_id: str, device_id: str) -> Device | None:
        organization = await self._directory.organization(organization_id)
        return None if organization is None else (organization.epoch, device_id)


def _batches(items: list[T]) -> Iterator[list[T]]:
    for start in range(0, len(items), BATCH):
        yield items[start : start + BATCH]

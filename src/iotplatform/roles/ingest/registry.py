"""Devices that nobody has registered, and units that some formats tell: written to the database behind the hot path.

Readings are long stored by then. What can't be remembered is learnt anew from the next reading: everything here is
bounded, and nothing waits for it.
"""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Sequence
from typing import Final

import structlog

from iotplatform.adapters.postgres.changes import EVERYTHING, Change
from iotplatform.adapters.postgres.connection import Database
from iotplatform.adapters.postgres.registrations import keep_units, register_devices
from iotplatform.domain.organization import Organization
from iotplatform.domain.payloads.admission import Decoded
from iotplatform.domain.reading import Reading
from iotplatform.errors import Rejected, Unavailable
from iotplatform.runtime.backoff import Backoff

log = structlog.get_logger(role="ingest")

GATHER_S: Final = 0.2
AT_ONCE: Final = 1_000
# After a full batch, so many times as long as it took.
PAUSES: Final = 3
MAX_PENDING: Final = 20_000
MAX_KNOWN: Final = 200_000
# An organization whose quota is used up is tried again.
FULL_FOR_S: Final = 30.0

# As management takes them: see `roles/management/fields.py`.
MAX_NAME: Final = 200
MAX_UNIT: Final = 100
# Control characters, of which PostgreSQL takes no NUL and a terminal too many; and halves of characters.
_UNPRINTABLE: Final = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")

Device = tuple[int, str]
Series = tuple[int, str, str]


class Registry:
    """`registers_unknown`: a device that sends is registered, as it is in open mode."""

    def __init__(self, database: Database, *, registers_unknown: bool) -> None:
        self._database = database
        self._registers_unknown = registers_unknown
        self._known: set[Device] = set()
        self._devices: dict[Device, str] = {}
        self._known_units: dict[Series, str] = {}
        self._units: dict[Series, str] = {}
        self._full_until: dict[int, float] = {}
        self._wake = asyncio.Event()

    def see(self, epoch: int, readings: Sequence[Reading]) -> None:
        """On the hot path, after readings without a credential were stored."""
        if not self._registers_unknown:
            return
        known = self._known
        for reading in readings:
            device = (epoch, reading.device_id)
            if device not in known and device not in self._devices and len(self._devices) < MAX_PENDING:
                self._devices[device] = reading.device_id
                self._wake.set()

    def learn(self, organization: Organization, decoded: Decoded, *, is_anonymous: bool) -> None:
        """A credential is a device's that exists: readings that came by it make none again that is just deleted."""
        epoch = organization.epoch
        if self._registers_unknown and is_anonymous:
            for device_id, name in decoded.names.items():
                device = (epoch, device_id)
                if device not in self._known and len(self._devices) < MAX_PENDING:
                    self._devices[device] = _printable(name, MAX_NAME) or device_id
                    self._wake.set()
            self.see(epoch, decoded.readings)
        for (device_id, sensor), told in decoded.units.items():
            series, unit = (epoch, device_id, sensor), _printable(told, MAX_UNIT)
            if self._known_units.get(series) != unit and len(self._units) < MAX_PENDING:
                self._units[series] = unit
                self._wake.set()

    async def apply(self, changes: list[Change]) -> None:
        """For the change feed: a device that was deleted is unknown again."""
        if EVERYTHING in changes:
            self._known.clear()
            self._known_units.clear()
            return
        for change in changes:
            if change.kind == "device" and change.epoch is not None:
                device = (change.epoch, change.key)
                self._known.discard(device)
                # What was sent before it was deleted does not bring it back.
                self._devices.pop(device, None)

    async def run(self) -> None:
        """Until cancelled."""
        backoff = Backoff(0.2, 5.0)
        while True:
            await self._wake.wait()
            # Whoever comes meanwhile shares the statement.
            await asyncio.sleep(GATHER_S)
            try:
                await self._write()
                backoff.reset()
            except (Unavailable, Rejected) as error:  # rejected: an organization went in this moment
                log.warning("ingest.registry_waiting", detail=error.detail)
                await backoff.wait()

    async def _register(self, rows: list[tuple[int, str, str]]) -> None:
        """In one statement, which costs one commit. One organization at a time only when one may have no more devices:
        that keeps no other from having them.
        """
        rows = [row for row in rows if not self._is_full(row[0])]
        if not rows:
            return
        try:
            await register_devices(self._database, rows)
        except Rejected:
            for epoch in {epoch for epoch, *_ in rows}:
                await self._register_for_one([row for row in rows if row[0] == epoch])
        else:
            log.info("ingest.devices_registered", devices=len(rows))

    async def _register_for_one(self, rows: list[tuple[int, str, str]]) -> None:
        try:
            await register_devices(self._database, rows)
        except Rejected as error:
            await self._register_while_there_is_room(rows, error)
        else:
            log.info("ingest.devices_registered", devices=len(rows))

    async def _register_while_there_is_room(self, rows: list[tuple[int, str, str]], error: Rejected) -> None:
        try:
            for row in rows:
                await register_devices(self._database, [row])
        except Rejected:
            epoch = rows[0][0]
            self._full_until[epoch] = time.monotonic() + FULL_FOR_S
            log.warning("ingest.devices_not_registered", epoch=epoch, detail=error.detail)

    def _is_full(self, epoch: int) -> bool:
        until = self._full_until.get(epoch)
        if until is None:
            return False
        if until > time.monotonic():
            return True
        del self._full_until[epoch]
        return False

    async def _write(self) -> None:
        """Everything that is pending; what is added meanwhile too."""
        while self._devices:
            devices = dict(list(self._devices.items())[:AT_ONCE])
            began = time.monotonic()
            await self._register([(epoch, id_, name) for (epoch, id_), name in devices.items()])
            if len(devices) == AT_ONCE:
                # A new fleet is registered in the background: the readings of all others go through the same database.
                await asyncio.sleep(PAUSES * (time.monotonic() - began))
            if len(self._known) + len(devices) > MAX_KNOWN:
                self._known.clear()
            self._known.update(device for device in devices if not self._is_full(device[0]))
            # One that got another name meanwhile stays.
            self._devices = {key: name for key, name in self._devices.items() if devices.get(key) != name}
        while self._units:
            units = dict(list(self._units.items())[:AT_ONCE])
            await keep_units(self._database, [(*series, unit) for series, unit in units.items()])
            if len(self._known_units) + len(units) > MAX_KNOWN:
                self._known_units.clear()
            self._known_units.update(units)
            self._units = {key: unit for key, unit in self._units.items() if units.get(key) != unit}
        self._wake.clear()


def _printable(text: str, most: int) -> str:
    """What strangers call a thing, fit to be stored and shown."""
    return _UNPRINTABLE.sub("\ufffd", text[:most])

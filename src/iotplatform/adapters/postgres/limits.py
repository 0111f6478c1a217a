"""Limits that were set for an organization or a device, over those of the settings."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

import msgspec
from sqlalchemy import delete, text
from sqlalchemy.dialects.postgresql import insert

from iotplatform.adapters.postgres.changes import EVERYTHING, Change
from iotplatform.adapters.postgres.connection import Database
from iotplatform.adapters.postgres.errors import translated
from iotplatform.adapters.postgres.models import DeviceLimitsRow, LimitsRow, QuotaDefaultRow
from iotplatform.adapters.postgres.versions import Check, put_versioned
from iotplatform.domain.limit import QUOTAS, RATES, DeviceLimits, Limits, OwnLimits, Rates, parse_rates

_STREAM_SIZES: Final = """
SELECT epoch, (definition ->> 'stream_bytes')::bigint AS size
FROM limits WHERE definition ->> 'stream_bytes' IS NOT NULL
"""


_LIMITED: Final = """
SELECT epoch FROM limits WHERE definition ?| $1::text[] UNION SELECT epoch FROM device_limits
"""
_OF_ORGANIZATION: Final = "SELECT definition FROM limits WHERE epoch = $1"
_OF_DEVICES: Final = "SELECT device_id, definition FROM device_limits WHERE epoch = $1"
_NOTE_NEAR: Final = """
INSERT INTO audit (organization_epoch, organization_id, actor, actor_kind, action, kind, subject, new)
SELECT o.epoch, o.id, 'system', 'system', 'near', 'limit', $2::text, jsonb_build_object('rates', $3::text)
FROM organizations o WHERE o.epoch = $1 AND NOT EXISTS (
    SELECT FROM audit a WHERE a.organization_epoch = o.epoch AND a.kind = 'limit' AND a.action = 'near'
    AND a.subject = $2::text AND a.at > now() - interval '1 hour'
)
"""

_COUNT: Final = "SELECT count(*) FROM %s WHERE epoch = :e AND %s"
_LIVE: Final = "revoked_at IS NULL AND (expires_at IS NULL OR expires_at > now())"
# As the triggers behind the quotas count: where they are, and which of them.
_ROWS: Final = {
    "users": ("user_roles", "true"),
    "api_keys": ("api_keys", _LIVE),
    "provisioning_keys": ("provisioning_keys", _LIVE),
}

_limits = msgspec.json.Decoder(OwnLimits)
_device_limits = msgspec.json.Decoder(DeviceLimits)


class LimitBook:
    """What an organization and its devices may send."""

    def __init__(self, limits: Limits, devices: Mapping[str, DeviceLimits]) -> None:
        self.requests = parse_rates(limits.requests)
        self.readings = parse_rates(limits.readings)
        self._of_every_device = (parse_rates(limits.device_requests), parse_rates(limits.device_readings))
        self._limits = limits
        self._devices = devices

    @property
    def devices_limited(self) -> bool:
        return bool(self._devices) or any(self._of_every_device)

    @property
    def is_empty(self) -> bool:
        return not (self.requests or self.readings or self.devices_limited)

    def of_device(self, device_id: str) -> tuple[Rates, Rates]:
        """For requests, and for readings."""
        own = self._devices.get(device_id)
        if own is None:
            return self._of_every_device
        return (
            parse_rates(own.requests or self._limits.device_requests),
            parse_rates(own.readings or self._limits.device_readings),
        )


class LimitBooks:
    """`limited`: whether anybody is limited in what he sends."""

    def __init__(self, database: Database, defaults: Limits) -> None:
        self._pool = database.pool
        self._defaults = defaults
        self._by_default = any(parse_rates(getattr(defaults, name)) for name in RATES)
        self._set: frozenset[int] = frozenset()
        self._callbacks: list[Callable[[int | None], None]] = []
        self.limited = self._by_default
        self.generation = 0

    def on_change(self, callback: Callable[[int | None], None]) -> None:
        """`callback` gets the epoch whose limits have changed, or None when any may have."""
        self._callbacks.append(callback)

    async def load(self) -> None:
        with translated():
            rows = await self._pool.fetch(_LIMITED, list(RATES))
        self._set = frozenset(row["epoch"] for row in rows)
        self.limited = self._by_default or bool(self._set)

    async def book(self, epoch: int) -> LimitBook:
        """What is set in this moment; cached by who asks."""
        with translated():
            own = await self._pool.fetchval(_OF_ORGANIZATION, epoch)
            devices = await self._pool.fetch(_OF_DEVICES, epoch)
        limits = self._defaults if own is None else _limits.decode(own).over(self._defaults)
        return LimitBook(limits, {row["device_id"]: _device_limits.decode(row["definition"]) for row in devices})

    async def apply(self, changes: list[Change]) -> None:
        """What the change feed calls.

        Raises:
            Unavailable: call again with the same changes.
        """
        if EVERYTHING in changes:
            epochs: set[int | None] = {None}
        else:
            epochs = {change.epoch for change in changes if change.kind in {"limit", "device_limit", "organization"}}
        if not epochs:
            return
        self.generation += 1
        await self.load()
        for epoch in epochs:
            for callback in self._callbacks:
                callback(epoch)

    async def note_near(self, epoch: int, what: str, rates: str) -> None:
        """In the audit, once an hour whichever process sees it."""
        with translated():
            await self._pool.execute(_NOTE_NEAR, epoch, what, rates)


async def find(database: Database, epoch: int) -> LimitsRow | None:
    with translated():
        async with database.sessions() as session:
            return await session.get(LimitsRow, epoch)


async def find_of_device(database: Database, epoch: int, device_id: str) -> DeviceLimitsRow | None:
    with translated():
        async with database.sessions() as session:
            return await session.get(DeviceLimitsRow, (epoch, device_id))


async def own_stream_sizes(database: Database) -> dict[int, int]:
    """`stream_bytes` by epoch, where it was set."""
    with translated():
        return {row["epoch"]: row["size"] for row in await database.pool.fetch(_STREAM_SIZES)}


async def put(database: Database, epoch: int, definition: dict[str, Any], check: Check) -> tuple[LimitsRow, bool]:
    """Set an organization's limits; whether it had none before. `check` is told the version there was, or None.

    Raises:
        Rejected: by `check`, the organization is gone, or somebody else has set them in this moment.
        Unavailable: PostgreSQL is away.
    """
    return await put_versioned(database, LimitsRow(epoch=epoch, definition=definition), epoch, check, "limits")


async def put_of_device(
    database: Database, epoch: int, device_id: str, definition: dict[str, Any], check: Check
) -> tuple[DeviceLimitsRow, bool]:
    row = DeviceLimitsRow(epoch=epoch, device_id=device_id, definition=definition)
    return await put_versioned(database, row, (epoch, device_id), check, "limits")


async def count(database: Database, epoch: int) -> dict[str, int]:
    """How many an organization has of what has a quota."""
    with translated():
        async with database.sessions() as session:
            return {
                what: await session.scalar(text(_COUNT % _ROWS.get(what, (what, "true"))), {"e": epoch}) or 0
                for what in QUOTAS
            }


async def set_quota_defaults(database: Database, defaults: Limits) -> None:
    """Let the database know what the settings say; the last process that starts wins."""
    given = {what: getattr(defaults, what) for what in QUOTAS}
    rows = [{"what": what, "most": most} for what, most in given.items() if isinstance(most, int)]
    with translated():
        async with database.sessions.begin() as session:
            await session.execute(
                delete(QuotaDefaultRow).where(QuotaDefaultRow.what.not_in([row["what"] for row in rows]))
            )
            if rows:
                statement = insert(QuotaDefaultRow).values(rows)
                await session.execute(
                    statement.on_conflict_do_update(
                        constraint="quota_defaults_pkey", set_={"most": statement.excluded.most}
                    )
                )

"""From announcements to rows of deliveries: which channels want one, and whether anything suppresses it.

Channels, windows and snoozes are read here, in the transaction that uses them, and not from the directory's memory:
what is announced once is announced for good, so a channel made a moment ago must not be missed, nor later be taken for
a deleted one.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Sequence
from typing import Final, TypeAlias

import asyncpg
import msgspec

from iotplatform.domain.announcement import (
    AlarmReminder,
    Announcement,
    announcement_name,
    announcement_number,
    encode_announcement,
)
from iotplatform.domain.maintenance import MaintenanceWindow
from iotplatform.domain.rule import Devices
from iotplatform.domain.timestamps import format_timestamp, to_microseconds
from iotplatform.runtime.clock import now_us

_NAMESPACE: Final = uuid.UUID("6f1c7f0e-0a54-5c0c-9d5b-0e9d3c1b7a42")

Connection: TypeAlias = "asyncpg.pool.PoolConnectionProxy[asyncpg.Record]"

# The lock makes a deletion of the organization wait, so that the foreign key can't fail in between.
_CHANNELS: Final = """
SELECT c.epoch, c.id, c.severities
FROM organizations o JOIN channels c ON c.epoch = o.epoch
WHERE o.epoch = ANY($1::bigint[]) AND c.enabled
FOR KEY SHARE OF o
"""

_WINDOWS: Final = """
SELECT epoch, id, name, starts_at, ends_at, device_ids, device_tags, rule_ids FROM maintenance_windows
WHERE epoch = ANY($1::bigint[]) AND starts_at <= now() AND ends_at > now()
ORDER BY id
"""

_TAGS: Final = "SELECT epoch, id, tags FROM devices WHERE epoch = ANY($1::bigint[]) AND id = ANY($2::text[])"

_SNOOZED: Final = "SELECT id, snoozed_until FROM alarms WHERE id = ANY($1::uuid[]) AND snoozed_until > now()"

_ON_THEIR_WAY: Final = """
SELECT alarm_id, channel_id FROM deliveries WHERE alarm_id = ANY($1::uuid[]) AND state = 'pending'
"""

_INSERT: Final = """
INSERT INTO deliveries (id, epoch, alarm_id, channel_id, transition, number, state, event, attempts, next_attempt_at)
SELECT n.id, n.epoch, n.alarm_id, n.channel_id, n.transition, n.number,
    CASE WHEN n.attempts = '[]' THEN 'pending' ELSE 'suppressed' END, n.event::jsonb, n.attempts::jsonb,
    CASE WHEN n.attempts = '[]' THEN now() END
FROM unnest($1::uuid[], $2::bigint[], $3::uuid[], $4::text[], $5::text[], $6::int[], $7::text[], $8::text[])
    AS n(id, epoch, alarm_id, channel_id, transition, number, event, attempts)
ON CONFLICT DO NOTHING
"""


def delivery_id(alarm_id: str, transition: str, channel_id: str, number: int = 0) -> uuid.UUID:
    """The same in every process, so that making a delivery again makes no second one."""
    parts = (alarm_id, transition, channel_id, str(number)) if number else (alarm_id, transition, channel_id)
    return uuid.uuid5(_NAMESPACE, "\x00".join(parts))


async def route(connection: Connection, announcements: Sequence[Announcement]) -> int:
    """Add the deliveries that the announcements call for; returns how many are to be sent.

    Organizations that exist no longer are skipped; what is suppressed is written down with the reason.
    """
    channels: dict[int, list[tuple[str, frozenset[str]]]] = {}
    for row in await connection.fetch(_CHANNELS, sorted({each.epoch for each in announcements})):
        channels.setdefault(row["epoch"], []).append((row["id"], frozenset(row["severities"])))
    wanted = [
        (each, channel_id)
        for each in announcements
        for channel_id, severities in channels.get(each.epoch, ())
        if each.severity in severities
    ]
    if not wanted:
        return 0
    concerned = {id(each): each for each, _ in wanted}
    reasons = await _reasons(connection, list(concerned.values()))
    crowded = await _on_their_way(connection, concerned.values())
    events = {key: encode_announcement(each).decode() for key, each in concerned.items()}
    at = format_timestamp(now_us())
    attempts = [_suppressed(at, each, channel_id, reasons, crowded) for each, channel_id in wanted]
    await connection.execute(
        _INSERT,
        [
            delivery_id(each.alarm_id, announcement_name(each), channel_id, announcement_number(each))
            for each, channel_id in wanted
        ],
        [each.epoch for each, _ in wanted],
        [uuid.UUID(each.alarm_id) for each, _ in wanted],
        [channel_id for _, channel_id in wanted],
        [announcement_name(each) for each, _ in wanted],
        [announcement_number(each) for each, _ in wanted],
        [events[id(each)] for each, _ in wanted],
        attempts,
    )
    return attempts.count("[]")


def _suppressed(
    at: str, each: Announcement, channel_id: str, reasons: dict[int, str], crowded: set[tuple[str, str]]
) -> str:
    reason = reasons.get(id(each))
    if reason is None and isinstance(each, AlarmReminder) and (each.alarm_id, channel_id) in crowded:
        reason = "an earlier notification of the alarm is still on its way"
    if reason is None:
        return "[]"
    return msgspec.json.encode([{"at": at, "outcome": "suppressed", "detail": reason}]).decode()


async def _reasons(connection: Connection, announcements: Sequence[Announcement]) -> dict[int, str]:
    """Why some of them are not to be sent, by identity."""
    reasons: dict[int, str] = {}
    # An alarm that was just raised can't have been snoozed.
    later = [uuid.UUID(each.alarm_id) for each in announcements if announcement_name(each) != "raised"]
    if later:
        until = {str(row["id"]): row["snoozed_until"] for row in await connection.fetch(_SNOOZED, later)}
        for each in announcements:
            if each.alarm_id in until:
                moment = format_timestamp(to_microseconds(until[each.alarm_id]))
                reasons[id(each)] = f"the alarm is snoozed until {moment}"
    rows = await connection.fetch(_WINDOWS, sorted({each.epoch for each in announcements}))
    if rows:
        tags = await _tags(connection, announcements) if any(row["device_tags"] for row in rows) else {}
        windows: dict[int, list[MaintenanceWindow]] = {}
        for row in rows:
            windows.setdefault(row["epoch"], []).append(window_of(row))
        for each in announcements:
            of_device = tags.get((each.epoch, each.device_id), ())
            for window in windows.get(each.epoch, ()):
                if window.covers(each.rule_id, each.device_id, of_device):
                    reasons.setdefault(id(each), f"maintenance window {window.id}: {window.name}")
    return reasons


async def _tags(connection: Connection, announcements: Iterable[Announcement]) -> dict[tuple[int, str], Sequence[str]]:
    devices = {(each.epoch, each.device_id) for each in announcements}
    rows = await connection.fetch(
        _TAGS, sorted({epoch for epoch, _ in devices}), sorted({device_id for _, device_id in devices})
    )
    return {(row["epoch"], row["id"]): row["tags"] for row in rows}


async def _on_their_way(connection: Connection, announcements: Iterable[Announcement]) -> set[tuple[str, str]]:
    reminded = [uuid.UUID(each.alarm_id) for each in announcements if isinstance(each, AlarmReminder)]
    if not reminded:
        return set()
    rows = await connection.fetch(_ON_THEIR_WAY, reminded)
    return {(str(row["alarm_id"]), row["channel_id"]) for row in rows}


def window_of(row: asyncpg.Record) -> MaintenanceWindow:
    devices = Devices(tuple(row["device_ids"]), tuple(row["device_tags"]))
    return MaintenanceWindow(
        id=row["id"],
        name=row["name"],
        starts_at=to_microseconds(row["starts_at"]),
        ends_at=to_microseconds(row["ends_at"]),
        devices=devices if devices.ids or devices.tags else None,
        rules=tuple(row["rule_ids"]),
    )

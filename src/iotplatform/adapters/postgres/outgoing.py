"""Outgoing deliveries: one row for each alarm, transition and channel, written with the reader's position."""

from __future__ import annotations

import datetime as dt
import uuid
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Final, Literal

import asyncpg
import msgspec

from iotplatform.adapters.postgres.connection import Database
from iotplatform.adapters.postgres.errors import translated
from iotplatform.adapters.postgres.routing import route
from iotplatform.domain.alarm import Transition
from iotplatform.errors import PlatformError

READER: Final = "notification"
# How many due rows one claim looks at before it shares them out among the channels.
CLAIM_WINDOW: Final = 200
KEPT_ATTEMPTS: Final = 20

ChannelKey = tuple[int, str]

_MOVE: Final = "UPDATE positions SET position = $3 WHERE reader = $1 AND position = $2"

# The claim's commit does not wait for the disk: a claim that is lost with PostgreSQL is a row that is due again, as
# after the death of a process, and one sync less stands between a breach and its notification.
# A clear waits for the raise of the same alarm on the same channel: the order in which people read matters.
_CLAIM: Final = """
WITH busy AS (
    SELECT * FROM unnest($1::bigint[], $2::text[], $3::int[]) AS b(epoch, channel_id, sending)
), unsynced AS MATERIALIZED (
    SELECT set_config('synchronous_commit', 'off', true)
), busy_organizations AS (
    SELECT epoch, sum(sending) AS sending FROM busy GROUP BY epoch
), due AS (
    SELECT d.id, d.epoch, d.channel_id, d.next_attempt_at
    FROM deliveries d CROSS JOIN unsynced
    WHERE d.state = 'pending' AND d.next_attempt_at <= now() AND d.id <> ALL($8::uuid[])
        AND NOT EXISTS (
            SELECT FROM busy b WHERE b.epoch = d.epoch AND b.channel_id = d.channel_id AND b.sending >= $4::int
        )
        AND d.epoch NOT IN (SELECT epoch FROM busy_organizations WHERE sending >= $9::int)
        AND (d.transition = 'raised' OR NOT EXISTS (
            SELECT FROM deliveries r
            WHERE r.alarm_id = d.alarm_id AND r.transition = 'raised' AND r.channel_id = d.channel_id
                AND r.state = 'pending'
        ))
    ORDER BY d.next_attempt_at
    LIMIT $5::int
    FOR UPDATE OF d SKIP LOCKED
), ranked AS (
    SELECT due.*, row_number() OVER (PARTITION BY epoch, channel_id ORDER BY next_attempt_at, id) AS place FROM due
), possible AS (
    SELECT r.id, r.epoch, r.channel_id, r.next_attempt_at,
        row_number() OVER (PARTITION BY r.epoch ORDER BY r.next_attempt_at, r.id) AS place
    FROM ranked r LEFT JOIN busy b ON b.epoch = r.epoch AND b.channel_id = r.channel_id
    WHERE r.place <= $4::int - coalesce(b.sending, 0)
), chosen AS (
    SELECT r.id, r.epoch, r.channel_id
    FROM possible r LEFT JOIN busy_organizations b ON b.epoch = r.epoch
    WHERE r.place <= $9::int - coalesce(b.sending, 0)
    ORDER BY r.next_attempt_at
    LIMIT $6::int
)
UPDATE deliveries d
SET next_attempt_at = now() + $7::interval
FROM chosen LEFT JOIN channels c ON c.epoch = chosen.epoch AND c.id = chosen.channel_id
WHERE d.id = chosen.id
RETURNING d.id, d.epoch, d.channel_id, d.event::text AS event, d.attempts::text AS attempts, d.created_at,
    now() - d.created_at AS age, c.type, c.enabled, c.config::text AS config, c.secrets
"""

# Never earlier than it is: a row that was finished in the meantime may have a longer wait already.
_RENEW: Final = """
UPDATE deliveries SET next_attempt_at = greatest(next_attempt_at, now() + $2::interval)
WHERE id = ANY($1::uuid[]) AND state = 'pending'
"""

# What was sent was sent, whoever holds the lease by now, and whatever
# has suppressed it meanwhile. Anything else counts only if nobody else, with a newer
# lease, has written down an attempt.
_FINISH: Final = """
UPDATE deliveries
SET state = $2, attempts = $3::text::jsonb, next_attempt_at = CASE WHEN $2 = 'pending' THEN now() + $4::interval END
WHERE id = $1 AND (
    state = 'pending' AND ($2 = 'sent' OR attempts = $5::text::jsonb) OR state = 'suppressed' AND $2 = 'sent'
)
"""


class Attempt(msgspec.Struct, frozen=True, omit_defaults=True):
    """One try. `reached` are the recipients that have the mail so far, when others have not."""

    at: str
    outcome: Literal["sent", "retry", "failed"]
    detail: str
    reached: tuple[str, ...] = ()


class DeliveryChannel(msgspec.Struct, frozen=True):
    """A channel as it is at the moment of the claim; `config` is JSON, `secrets` are sealed."""

    type: str
    enabled: bool
    config: bytes
    secrets: str | None = None


class OutgoingDelivery(msgspec.Struct, frozen=True):
    """A claimed row. `event` is the transition as JSON; `channel` is None when it was deleted."""

    id: uuid.UUID
    epoch: int
    channel_id: str
    event: bytes
    attempts: tuple[Attempt, ...]
    created_at: dt.datetime
    age_s: float
    channel: DeliveryChannel | None

    @property
    def channel_key(self) -> ChannelKey:
        return self.epoch, self.channel_id


class OutgoingMoved(PlatformError):
    """Another process has moved the reader's position; nothing was written."""


class UnstorableTransition(PlatformError):
    """PostgreSQL refuses the data of a transition itself; nothing was written."""


_attempts = msgspec.json.Decoder(tuple[Attempt, ...])


class OutgoingDeliveries:
    """All methods raise Unavailable while PostgreSQL is away."""

    def __init__(self, database: Database) -> None:
        self._pool = database.pool

    async def position(self) -> int:
        with translated():
            return int(await self._pool.fetchval("SELECT position FROM positions WHERE reader = $1", READER))

    async def record(self, before: int, after: int, transitions: Sequence[Transition]) -> int:
        """Add the deliveries that the transitions call for and move the position; returns how many are to be sent.

        Organizations that exist no longer are skipped. After Unavailable the position tells whether it was written.

        Raises:
            OutgoingMoved: the position is not `before`.
            UnstorableTransition: PostgreSQL does not take the data of one of them.
        """
        with translated():
            try:
                async with self._pool.acquire() as connection, connection.transaction():
                    if await connection.execute(_MOVE, READER, before, after) != "UPDATE 1":
                        raise OutgoingMoved("another process has moved the position of notification")
                    return await route(connection, transitions) if transitions else 0
            except (asyncpg.DataError, UnicodeEncodeError) as error:
                raise UnstorableTransition(str(error)) from error
            except asyncpg.PostgresError as error:
                if str(error.sqlstate).startswith("22"):
                    raise UnstorableTransition(str(error)) from error
                raise

    async def claim(
        self,
        sending: Mapping[uuid.UUID, ChannelKey],
        *,
        per_channel: int,
        most: int,
        lease_s: float,
        per_organization: int = 1_000,
    ) -> list[OutgoingDelivery]:
        """Take due rows, at most `most`, and of a channel and an organization so many that they are `sending` no more
        than `per_channel` and `per_organization`.

        A row that nobody finishes, or renews, within `lease_s` is due again.
        """
        busy = Counter(sending.values())
        with translated():
            rows = await self._pool.fetch(
                _CLAIM,
                [epoch for epoch, _ in busy],
                [channel_id for _, channel_id in busy],
                list(busy.values()),
                per_channel,
                CLAIM_WINDOW,
                most,
                dt.timedelta(seconds=lease_s),
                list(sending),
                per_organization,
            )
        return [_delivery(row) for row in rows]

    async def renew(self, sending: Iterable[uuid.UUID], lease_s: float) -> None:
        """These are still under way."""
        with translated():
            await self._pool.execute(_RENEW, list(sending), dt.timedelta(seconds=lease_s))

    async def finish(
        self,
        delivery: OutgoingDelivery,
        state: Literal["pending", "sent", "failed"],
        attempt: Attempt,
        *,
        again_s: float,
    ) -> None:
        """Write down how an attempt ended; with the state `pending` there is another one in `again_s` seconds."""
        attempts = (*delivery.attempts, attempt)[-KEPT_ATTEMPTS:]
        with translated():
            await self._pool.execute(
                _FINISH,
                delivery.id,
                state,
                msgspec.json.encode(attempts).decode(),
                dt.timedelta(seconds=again_s),
                msgspec.json.encode(delivery.attempts).decode(),
            )


def _delivery(row: asyncpg.Record) -> OutgoingDelivery:
    return OutgoingDelivery(
        id=row["id"],
        epoch=row["epoch"],
        channel_id=row["channel_id"],
        event=row["event"].encode(),
        attempts=_attempts.decode(row["attempts"]),
        created_at=row["created_at"],
        age_s=row["age"].total_seconds(),
        channel=None
        if row["type"] is None
        else DeliveryChannel(
            type=row["type"], enabled=row["enabled"], config=row["config"].encode(), secrets=row["secrets"]
        ),
    )

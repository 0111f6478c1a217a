"""The audit, as it is read; what was asked for without changing a row; and its end after a time."""

from __future__ import annotations

import datetime as dt
from typing import Final

import asyncpg
import msgspec
from sqlalchemy import select

from iotplatform.adapters.postgres.actor import Actor
from iotplatform.adapters.postgres.connection import Database
from iotplatform.adapters.postgres.errors import translated
from iotplatform.adapters.postgres.models import AuditRow

PRUNED_AT_ONCE: Final = 10_000

# A change of rows has its entry already, by their triggers.
_RECORD: Final = """
INSERT INTO audit (
    organization_epoch, organization_id, actor, actor_kind, address, request, action, kind, subject, new
)
SELECT (SELECT epoch FROM organizations WHERE id = $1), $1, $2, $3, $4, $5::uuid, $6, 'request', $7,
       without_secrets($8::jsonb)
WHERE NOT EXISTS (SELECT FROM audit WHERE request = $5::uuid)
"""
_PRUNE: Final = """
DELETE FROM audit WHERE id = ANY(
    ARRAY(SELECT id FROM audit WHERE at < now() - make_interval(secs => $1) LIMIT $2)
)
"""


class AuditFilter(msgspec.Struct, frozen=True):
    """`since` and `until` bound the time, the second one exclusively."""

    actor: str | None = None
    action: str | None = None
    kind: str | None = None
    subject: str | None = None
    organization_id: str | None = None
    since: dt.datetime | None = None
    until: dt.datetime | None = None


async def page(
    database: Database, epoch: int | None, limit: int, after: int | None, wanted: AuditFilter
) -> list[AuditRow]:
    """The newest first; of one organization, or (None) of all, those that are gone included."""
    query = select(AuditRow).order_by(AuditRow.id.desc()).limit(limit)
    if epoch is not None:
        query = query.where(AuditRow.organization_epoch == epoch)
    if after is not None:
        query = query.where(AuditRow.id < after)
    for column in ("actor", "action", "kind", "subject", "organization_id"):
        value = getattr(wanted, column)
        if value is not None:
            query = query.where(getattr(AuditRow, column) == value)
    if wanted.since is not None:
        query = query.where(AuditRow.at >= wanted.since)
    if wanted.until is not None:
        query = query.where(AuditRow.at < wanted.until)
    with translated():
        async with database.sessions() as session:
            return list(await session.scalars(query))


async def record_request(
    database: Database, actor: Actor, *, action: str, path: str, organization_id: str | None, body: bytes | None
) -> None:
    """A request that was carried out, unless what it changed has an entry by now. `body` is JSON, if there was one."""
    # jsonb takes neither NUL nor half a character, which JSON can spell.
    given = None if body is None else body.decode().replace("\\u0000", "\\ufffd")
    about = (organization_id, actor.name, actor.kind, actor.address, actor.request, action, path)
    with translated():
        try:
            await database.pool.execute(_RECORD, *about, given)
        except asyncpg.DataError:
            await database.pool.execute(_RECORD, *about, None)


async def prune(database: Database, keep_s: float) -> int:
    """The number of entries removed, because they are older than `keep_s`."""
    removed = 0
    with translated():
        while count := int((await database.pool.execute(_PRUNE, keep_s, PRUNED_AT_ONCE)).rpartition(" ")[2]):
            removed += count
    return removed

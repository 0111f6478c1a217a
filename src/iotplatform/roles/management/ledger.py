"""`/organizations/{org}/ledger` and `/organizations/{org}/dead-letters`."""

from __future__ import annotations

import msgspec
from litestar import get
from litestar.di import NamedDependency
from litestar.params import FromPath

from iotplatform.domain.dead_letter import DeadLetter
from iotplatform.domain.ledger import LedgerEntry
from iotplatform.domain.timestamps import format_timestamp
from iotplatform.roles.management.context import ManagementContext
from iotplatform.roles.management.paging import BY_PLACE, DEFAULT_LIMIT, Cursor, Limit, Page, decode_cursor, page


class DeadLetterAnswer(msgspec.Struct, frozen=True):
    """`readings` is how many accepted readings the letter stands for."""

    id: str
    role: str
    reason: str
    detail: str
    device_id: str | None
    received_at: str
    readings: int
    payload: str
    encoding: str


@get("/organizations/{org:str}/ledger")
async def read_ledger(org: FromPath[str], context: NamedDependency[ManagementContext]) -> LedgerEntry:
    return await context.ledger(await context.organization(org))


@get("/organizations/{org:str}/dead-letters")
async def list_dead_letters(
    org: FromPath[str],
    context: NamedDependency[ManagementContext],
    limit: Limit = DEFAULT_LIMIT,
    cursor: Cursor = None,
) -> Page[DeadLetterAnswer]:
    """The oldest first."""
    after = decode_cursor(cursor, BY_PLACE)
    organization = await context.organization(org)
    found = await context.dead_letters.list(organization, limit + 1, after or 0)
    return page(found, limit, lambda entry: _answer(entry[1]), lambda last: last[0])


def _answer(letter: DeadLetter) -> DeadLetterAnswer:
    return DeadLetterAnswer(
        id=letter.id,
        role=letter.role,
        reason=letter.reason,
        detail=letter.detail,
        device_id=letter.device_id,
        received_at=format_timestamp(letter.received_at),
        readings=letter.readings,
        payload=letter.payload,
        encoding=letter.encoding,
    )

"""`/organizations/{org}/dead-letters`."""

from __future__ import annotations

from typing import Annotated

import msgspec
from litestar import get, post
from litestar.di import NamedDependency
from litestar.params import FromPath, JSONBody, QueryParameter

from iotplatform.adapters.nats.dead_letters import PlacedLetter
from iotplatform.adapters.nats.replay import ReplayResult
from iotplatform.domain.dead_letter import LetterFilter, Reason
from iotplatform.domain.identifiers import IDENTIFIER_PATTERN
from iotplatform.domain.timestamps import format_timestamp
from iotplatform.roles.management.access import OPERATE, READ
from iotplatform.roles.management.context import ManagementContext
from iotplatform.roles.management.fields import Body
from iotplatform.roles.management.paging import (
    BY_LETTER,
    DEFAULT_LIMIT,
    Cursor,
    Limit,
    Page,
    decode_cursor,
    encode_cursor,
)
from iotplatform.roles.management.parameters import DeviceIds, From, To, check_device_ids, parse_time
from iotplatform.runtime.clock import now_us

RoleFilter = Annotated[
    str | None, QueryParameter(pattern=IDENTIFIER_PATTERN, description="only those that this role has written")
]
ReasonFilter = Annotated[Reason | None, QueryParameter(description="only those with this reason")]
LetterId = Annotated[str, msgspec.Meta(min_length=1, max_length=500)]


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


class DeadLetterPage(Page[DeadLetterAnswer], frozen=True):
    """`dropped` is how many letters there were besides, that nobody replayed: a full stream drops its oldest."""

    dropped: int


class ReplayBody(Body, frozen=True):
    ids: Annotated[list[LetterId], msgspec.Meta(min_length=1, max_length=1_000)]


class ReplayAnswer(msgspec.Struct, frozen=True):
    """One result for each id, in the order of the request."""

    items: list[ReplayResult]


@get("/organizations/{org:str}/dead-letters", opt=READ)
async def list_dead_letters(
    org: FromPath[str],
    context: NamedDependency[ManagementContext],
    *,
    role: RoleFilter = None,
    reason: ReasonFilter = None,
    device_id: DeviceIds = None,
    since: From = None,
    until: To = None,
    limit: Limit = DEFAULT_LIMIT,
    cursor: Cursor = None,
) -> DeadLetterPage:
    """The oldest first. A page may hold fewer than `limit` and still have a next one."""
    wanted = LetterFilter(role, reason, check_device_ids(device_id), parse_time("from", since), parse_time("to", until))
    after = decode_cursor(cursor, BY_LETTER)
    organization = await context.organization(org)
    found = await context.dead_letters.page(organization, limit, after or 0, wanted)
    next_cursor = None if found.next_after is None else encode_cursor(found.next_after)
    dropped = await context.dropped_letters(organization)
    return DeadLetterPage([_answer(placed) for placed in found.letters], next_cursor, dropped)


@post("/organizations/{org:str}/dead-letters/replay", status_code=200, opt=OPERATE)
async def replay_dead_letters(
    org: FromPath[str], data: JSONBody[ReplayBody], context: NamedDependency[ManagementContext]
) -> ReplayAnswer:
    """Readings are accepted once more, transitions published again; a letter that was replayed is gone."""
    organization = await context.organization(org)
    return ReplayAnswer(await context.replayer.replay(organization, data.ids, now_us()))


def _answer(placed: PlacedLetter) -> DeadLetterAnswer:
    letter = placed.letter
    return DeadLetterAnswer(
        id=placed.id,
        role=letter.role,
        reason=letter.reason,
        detail=letter.detail,
        device_id=letter.device_id,
        received_at=format_timestamp(letter.received_at),
        readings=letter.readings,
        payload=letter.payload,
        encoding=letter.encoding,
    )

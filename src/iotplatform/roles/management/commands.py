"""`/organizations/{org}/devices/{device}/commands`: delivered when the device is there, by the ingest role."""

from __future__ import annotations

import datetime as dt
import uuid
from typing import Annotated, Any, Final, Literal

import msgspec
from litestar import Response, get, post
from litestar.di import NamedDependency
from litestar.params import FromPath, HeaderParameter, JSONBody, QueryParameter

from iotplatform.adapters.postgres import commands
from iotplatform.adapters.postgres.commands import NewCommand
from iotplatform.adapters.postgres.models import CommandRow
from iotplatform.domain.principal import Principal
from iotplatform.domain.timestamps import format_timestamp, to_microseconds
from iotplatform.errors import Fault, Rejected
from iotplatform.roles.management.access import OPERATE, READ
from iotplatform.roles.management.context import ManagementContext, known_form, not_found
from iotplatform.roles.management.devices import check_json
from iotplatform.roles.management.fields import Body
from iotplatform.roles.management.paging import (
    DEFAULT_LIMIT,
    Cursor,
    Limit,
    Page,
    decode_time_cursor,
    page,
    time_place,
)

MAX_PAYLOAD_BYTES: Final = 64 * 1024
_DAY_S: Final = 86_400

CommandName = Annotated[str, msgspec.Meta(pattern=r"^[A-Za-z0-9_.:-]{1,64}\Z")]
Key = Annotated[
    str | None,
    HeaderParameter(
        name="Idempotency-Key", pattern=r"^[\x21-\x7e]{1,64}$", description="the same again makes no second command"
    ),
]
# `state` itself means something else to Litestar.
States = Annotated[
    list[Literal["queued", "sent", "acknowledged", "answered", "failed", "expired"]] | None,
    QueryParameter(name="state", description="only in one of these states; repeatable"),
]


class CommandBody(Body, frozen=True):
    """`expires_s`: how long it may wait for the device to say that it has it."""

    name: CommandName
    payload: Any = None
    expires_s: Annotated[int, msgspec.Meta(ge=1, le=30 * _DAY_S)] = _DAY_S


class CommandAnswer(msgspec.Struct, frozen=True):
    id: str
    device_id: str
    name: str
    payload: Any
    state: str
    created_at: str
    created_by: str
    expires_at: str
    sent_at: str | None
    times_sent: int
    acknowledged_at: str | None
    ended_at: str | None
    answer: Any


@post("/organizations/{org:str}/devices/{device:str}/commands", opt=OPERATE)
async def create_command(
    org: FromPath[str],
    device: FromPath[str],
    data: JSONBody[CommandBody],
    context: NamedDependency[ManagementContext],
    principal: NamedDependency[Principal],
    key: Key = None,
) -> Response[CommandAnswer]:
    check_json("payload", data.payload)
    encoded = msgspec.json.encode((data.name, data.payload), order="sorted")
    if len(encoded) > MAX_PAYLOAD_BYTES:
        fault = Fault(f"must be at most {MAX_PAYLOAD_BYTES} bytes of JSON", field="payload")
        raise Rejected("invalid", "the body is not valid", faults=(fault,))
    organization = await context.organization(org)
    new = NewCommand(
        name=data.name,
        payload=data.payload,
        expires_at=dt.datetime.now(dt.UTC) + dt.timedelta(seconds=data.expires_s),
        created_by=principal.name,
        idempotency_key=key,
        fingerprint=uuid.uuid5(uuid.NAMESPACE_OID, encoded.decode()).hex,
    )
    row, _ = await commands.add(context.database, organization.epoch, known_form("device", device), new)
    location = f"/organizations/{organization.id}/devices/{device}/commands/{row.id}"
    return Response(_answer(row), status_code=201, headers={"Location": location})


@get("/organizations/{org:str}/devices/{device:str}/commands", opt=READ)
async def list_commands(
    org: FromPath[str],
    device: FromPath[str],
    context: NamedDependency[ManagementContext],
    states: States = None,
    limit: Limit = DEFAULT_LIMIT,
    cursor: Cursor = None,
) -> Page[CommandAnswer]:
    """The newest first."""
    after = decode_time_cursor(cursor)
    organization = await context.organization(org)
    found = await commands.page(
        context.database, organization.epoch, known_form("device", device), limit + 1, after, tuple(states or ())
    )
    return page(found, limit, _answer, lambda last: time_place(last.created_at, last.id))


@get("/organizations/{org:str}/devices/{device:str}/commands/{command:uuid}", opt=READ)
async def read_command(
    org: FromPath[str],
    device: FromPath[str],
    command: FromPath[uuid.UUID],
    context: NamedDependency[ManagementContext],
) -> CommandAnswer:
    organization = await context.organization(org)
    row = await commands.find(context.database, organization.epoch, known_form("device", device), command)
    if row is None:
        raise not_found("command", str(command))
    return _answer(row)


def _answer(row: CommandRow) -> CommandAnswer:
    return CommandAnswer(
        id=str(row.id),
        device_id=row.device_id,
        name=row.name,
        payload=row.payload,
        state=row.state,
        created_at=_time(row.created_at) or "",
        created_by=row.created_by,
        expires_at=_time(row.expires_at) or "",
        sent_at=_time(row.sent_at),
        times_sent=row.times_sent,
        acknowledged_at=_time(row.acknowledged_at),
        ended_at=_time(row.ended_at),
        answer=row.answer,
    )


def _time(at: dt.datetime | None) -> str | None:
    return None if at is None else format_timestamp(to_microseconds(at))

"""`…/devices/import`: many devices out of a CSV file, with a report per row."""

from __future__ import annotations

import asyncio
import uuid
from dataclasses import dataclass
from typing import Annotated, Any, Final, Literal

import msgspec
from litestar import Request, post
from litestar.di import NamedDependency
from litestar.exceptions import InternalServerException
from litestar.exceptions.http_exceptions import RequestEntityTooLarge
from litestar.openapi.spec import OpenAPIMediaType, OpenAPIType, Operation, RequestBody, Schema
from litestar.params import FromPath, QueryParameter

from iotplatform.adapters.postgres import device_batches
from iotplatform.adapters.postgres.device_batches import DeviceToAdd
from iotplatform.domain.device_csv import CsvRow, read_devices
from iotplatform.domain.timestamps import format_timestamp, to_microseconds
from iotplatform.errors import Fault, Rejected
from iotplatform.roles.management.access import ADMINISTER
from iotplatform.roles.management.context import ManagementContext
from iotplatform.roles.management.devices import NewDevice, check_metadata
from iotplatform.roles.management.requests import MAX_BODY_BYTES, decode_body
from iotplatform.roles.management.tokens import NewCredential

# Between two turns of the event loop: to sign takes some 0.1 ms.
SIGNED_AT_ONCE: Final = 50

DryRun = Annotated[bool, QueryParameter(description="only tell what would be done")]
RowResult = Literal["created", "creatable", "exists", "invalid"]


class ImportedRow(msgspec.Struct, omit_defaults=True):
    """`token` is shown this once; `creatable` is what a dry run says in place of `created`."""

    line: int
    result: RowResult
    id: str | None = None
    token: str | None = None
    token_expires_at: str | None = None
    errors: tuple[Fault, ...] = ()


class ImportAnswer(msgspec.Struct):
    dry_run: bool
    created: int
    existing: int
    invalid: int
    rows: list[ImportedRow]


@dataclass
class _CsvOperation(Operation):
    """Says what the body is, which the handler takes as it comes."""

    def __post_init__(self) -> None:
        media_type = OpenAPIMediaType(schema=Schema(type=OpenAPIType.STRING))
        self.request_body = RequestBody(content={"text/csv": media_type}, required=True)


@post("/organizations/{org:str}/devices/import", status_code=200, opt=ADMINISTER, operation_class=_CsvOperation)
async def import_devices(
    request: Request[Any, Any, Any],
    org: FromPath[str],
    context: NamedDependency[ManagementContext],
    dry_run: DryRun = False,  # noqa: FBT002 - a parameter of the query
) -> ImportAnswer:
    """Columns: id, name, tags (with semicolons between them), metadata.<name>. What exists already is left as it is."""
    rows = read_devices(await _body(request))
    organization = await context.organization(org)
    report: list[ImportedRow] = []
    wanted: dict[str, tuple[ImportedRow, NewDevice]] = {}
    for row in rows:
        entry, device = _looked_at(row, wanted)
        report.append(entry)
        if device is not None and entry.id is not None:
            wanted[entry.id] = (entry, device)
    existing = await device_batches.existing(context.database, organization.epoch, list(wanted))
    new = {device_id: found for device_id, found in wanted.items() if device_id not in existing}
    for device_id in existing & wanted.keys():
        wanted[device_id][0].result = "exists"
    if not dry_run and new:
        await _create(context, organization.id, organization.epoch, new)
    results = [entry.result for entry in report]
    return ImportAnswer(
        dry_run=dry_run,
        created=results.count("created"),
        existing=results.count("exists"),
        invalid=results.count("invalid"),
        rows=report,
    )


async def _create(
    context: ManagementContext, organization_id: str, epoch: int, new: dict[str, tuple[ImportedRow, NewDevice]]
) -> None:
    credentials: dict[str, NewCredential] = {}
    for number, device_id in enumerate(new):
        credentials[device_id] = NewCredential.issue(context.tokens, organization_id, device_id)
        if number % SIGNED_AT_ONCE == 0:
            await asyncio.sleep(0)
    batch = [
        DeviceToAdd(
            id=device_id,
            name=device.name,
            tags=list(dict.fromkeys(device.tags)),
            metadata=device.metadata,
            token_id=credentials[device_id].token_id,
            token_expires_at=credentials[device_id].expires_at,
        )
        for device_id, (_, device) in new.items()
    ]
    made = await device_batches.add(context.database, epoch, batch)
    for device_id, (entry, _) in new.items():
        if device_id not in made:
            # Somebody else was quicker.
            entry.result = "exists"
            continue
        credential = credentials[device_id]
        entry.result, entry.token = "created", credential.token
        entry.token_expires_at = format_timestamp(to_microseconds(credential.expires_at))


def _looked_at(row: CsvRow, before: dict[str, Any]) -> tuple[ImportedRow, NewDevice | None]:
    entry = ImportedRow(row.line, "invalid", row.fields.get("id"))
    if row.faults:
        entry.errors = tuple(row.faults)
        return entry, None
    try:
        device: NewDevice = decode_body(msgspec.json.encode(row.fields), NewDevice)
        check_metadata(device.metadata)
    except Rejected as error:
        entry.errors = error.faults
        return entry, None
    entry.id = device.id or str(uuid.uuid4())
    if entry.id in before:
        entry.errors = (Fault("stands in a row before", field="id"),)
        return entry, None
    entry.result = "creatable"
    return entry, device


async def _body(request: Request[Any, Any, Any]) -> bytes:
    try:
        body = await request.body()
    except RequestEntityTooLarge as error:
        raise Rejected("too_large", f"the body is larger than {MAX_BODY_BYTES} bytes") from error
    except InternalServerException as error:
        raise Rejected("malformed", "the request ended before its body did") from error
    if request.content_type[0].lower() != "text/csv":
        raise Rejected("unsupported_media", "the Content-Type must be text/csv")
    if request.headers.get("content-encoding", "identity").lower() != "identity":
        raise Rejected("unsupported_media", "compressed bodies are not supported")
    return body

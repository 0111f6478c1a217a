"""`/organizations/{org}/mappings`, and the ready-made ones."""

from __future__ import annotations

import uuid
from typing import Annotated, Final

import msgspec
from litestar import Response, delete, get, post, put
from litestar.di import NamedDependency
from litestar.openapi.datastructures import ResponseSpec
from litestar.params import FromPath, JSONBody

from iotplatform.adapters.postgres import mappings
from iotplatform.adapters.postgres.changes import Change
from iotplatform.adapters.postgres.models import MappingRow
from iotplatform.domain.identifiers import identifier_fault
from iotplatform.domain.mappings.extraction import Extraction
from iotplatform.domain.mappings.mapping import MAX_RULES, Mapping, TopicRule, mapping_faults
from iotplatform.domain.mappings.templates import TEMPLATES
from iotplatform.domain.reading import Value
from iotplatform.domain.timestamps import format_timestamp
from iotplatform.errors import Fault, Rejected
from iotplatform.roles.management.access import ADMINISTER, READ, SIGNED_IN
from iotplatform.roles.management.context import ManagementContext, known_form, not_found
from iotplatform.roles.management.etags import IfMatch, IfNoneMatch, etag, precondition
from iotplatform.roles.management.fields import Body, Identifier, Name
from iotplatform.roles.management.paging import BY_ID, DEFAULT_LIMIT, Cursor, Limit, Page, decode_cursor, page
from iotplatform.runtime.clock import now_us

MAX_PAYLOAD: Final = 65_536
# An organization has a hundred of them at most, and every process that takes readings holds them all.
MAX_MAPPING_BYTES: Final = 65_536


class MappingBody(Body, frozen=True, kw_only=True):
    """Rules of one's own, or those of a template, which is read once: what becomes of it later changes nothing."""

    name: Name | None = None
    id: Identifier | None = None
    enabled: bool = True
    gateways: Annotated[tuple[Identifier, ...], msgspec.Meta(max_length=1_000)] = ()
    template: Annotated[str, msgspec.Meta(max_length=64)] | None = None
    rules: Annotated[tuple[TopicRule, ...], msgspec.Meta(max_length=MAX_RULES)] = ()

    def mapping(self, mapping_id: str) -> Mapping:
        """The mapping that is meant.

        Raises:
            Rejected: it could not be used.
        """
        faults = []
        if self.id not in {None, mapping_id}:
            faults.append(Fault("must be the id in the path, or be left out", field="id"))
        if self.template is not None and self.rules:
            faults.append(Fault("can't stand beside rules", field="template"))
        elif self.template is not None and self.template not in TEMPLATES:
            faults.append(Fault(f"must be one of {', '.join(TEMPLATES)}", field="template"))
        elif self.template is None and not self.rules:
            faults.append(Fault("must hold at least one rule, unless there is a template", field="rules"))
        elif self.template is None and self.name is None:
            faults.append(Fault("is required", field="name"))
        if faults:
            raise Rejected("invalid", "the body is not valid", faults=tuple(faults))
        rules = self.rules or TEMPLATES[self.template or ""]
        mapping = Mapping(mapping_id, self.name or self.template or "", rules, self.enabled, self.gateways)
        if len(msgspec.json.encode(mapping)) > MAX_MAPPING_BYTES:
            fault = Fault(
                f"make more than {MAX_MAPPING_BYTES} bytes of JSON: divide them over several mappings", field="rules"
            )
            raise Rejected("invalid", "the body is not valid", faults=(fault,))
        if faults := list(mapping_faults(mapping)):
            raise Rejected("invalid", "the body is not valid", faults=tuple(faults))
        return mapping


class MappingAnswer(msgspec.Struct, frozen=True):
    id: str
    name: str
    enabled: bool
    gateways: tuple[str, ...]
    rules: tuple[TopicRule, ...]


class MappingTemplate(msgspec.Struct, frozen=True):
    id: str
    rules: tuple[TopicRule, ...]


class Trial(Body, frozen=True, kw_only=True):
    """A message as it would come: `topic` below `iot/{org}/{gateway}/`."""

    topic: Annotated[str, msgspec.Meta(min_length=1, max_length=1_000)]
    payload: Annotated[str, msgspec.Meta(max_length=MAX_PAYLOAD)]
    gateway: Identifier = "gateway"
    mapping: MappingBody | None = None


class TrialReading(msgspec.Struct, frozen=True):
    device_id: str
    sensor: str
    timestamp: str
    value: Value


class TrialAnswer(msgspec.Struct, frozen=True):
    """`matched`: a rule is for this topic. Nothing was stored."""

    matched: bool
    items: list[TrialReading]
    errors: list[Fault]


@get("/mapping-templates", opt=SIGNED_IN)
async def list_mapping_templates() -> Page[MappingTemplate]:
    return Page([MappingTemplate(name, rules) for name, rules in TEMPLATES.items()], None)


@get("/organizations/{org:str}/mappings", opt=READ)
async def list_mappings(
    org: FromPath[str],
    context: NamedDependency[ManagementContext],
    limit: Limit = DEFAULT_LIMIT,
    cursor: Cursor = None,
) -> Page[MappingAnswer]:
    """In the order in which they are held against a topic."""
    after = decode_cursor(cursor, BY_ID)
    organization = await context.organization(org)
    found = await mappings.page(context.database, organization.epoch, limit + 1, after)
    return page(found, limit, _answer, lambda last: last.id)


@post("/organizations/{org:str}/mappings", opt=ADMINISTER)
async def create_mapping(
    org: FromPath[str], data: JSONBody[MappingBody], context: NamedDependency[ManagementContext]
) -> Response[MappingAnswer]:
    mapping = data.mapping(data.id or data.template or str(uuid.uuid4()))
    organization = await context.organization(org)
    row = await mappings.add(context.database, organization.epoch, mapping)
    await _tell(context, row)
    return _made(organization.id, row)


@post("/organizations/{org:str}/mappings/try", status_code=200, opt=READ)
async def try_mapping(
    org: FromPath[str], data: JSONBody[Trial], context: NamedDependency[ManagementContext]
) -> TrialAnswer:
    """What would become of a message, by the organization's mappings or by one that is still to be made."""
    wanted = None if data.mapping is None else data.mapping.mapping("trial")
    organization = await context.organization(org)
    if wanted is None:
        rows = await mappings.page(context.database, organization.epoch, mappings.MAX_MAPPINGS, None)
        known = [mappings.mapping_of(row) for row in rows]
    else:
        known = [wanted]
    body = data.payload.encode("utf-8", "surrogatepass")
    decoded = Extraction(known).extract(organization.id, data.gateway, data.topic, body, arrived_at=now_us())
    if decoded is None:
        return TrialAnswer(matched=False, items=[], errors=[])
    items = [
        TrialReading(reading.device_id, reading.sensor, format_timestamp(reading.at), reading.value)
        for reading in decoded.readings
    ]
    return TrialAnswer(matched=True, items=items, errors=[fault for bad in decoded.bad for fault in bad.faults])


@get("/organizations/{org:str}/mappings/{mapping:str}", opt=READ)
async def read_mapping(
    org: FromPath[str], mapping: FromPath[str], context: NamedDependency[ManagementContext]
) -> Response[MappingAnswer]:
    organization = await context.organization(org)
    found = await mappings.find(context.database, organization.epoch, known_form("mapping", mapping))
    if found is None:
        raise not_found("mapping", mapping)
    return _shown(found)


@put(
    "/organizations/{org:str}/mappings/{mapping:str}",
    responses={201: ResponseSpec(MappingAnswer, description="made")},
    opt=ADMINISTER,
)
async def put_mapping(
    org: FromPath[str],
    mapping: FromPath[str],
    data: JSONBody[MappingBody],
    context: NamedDependency[ManagementContext],
    if_match: IfMatch = None,
    if_none_match: IfNoneMatch = None,
) -> Response[MappingAnswer]:
    fault = identifier_fault(mapping)
    if fault is not None:
        raise Rejected("invalid", "the id in the path is not valid", faults=(Fault(fault, field="id"),))
    wanted = data.mapping(mapping)
    check = precondition(if_match, if_none_match).check
    organization = await context.organization(org)
    row, made = await mappings.put(context.database, organization.epoch, wanted, check)
    await _tell(context, row)
    return _made(organization.id, row) if made else _shown(row)


@delete("/organizations/{org:str}/mappings/{mapping:str}", opt=ADMINISTER)
async def delete_mapping(
    org: FromPath[str],
    mapping: FromPath[str],
    context: NamedDependency[ManagementContext],
    if_match: IfMatch = None,
) -> None:
    check = precondition(if_match).check
    organization = await context.organization(org)
    if not await mappings.remove(context.database, organization.epoch, known_form("mapping", mapping), check):
        raise not_found("mapping", mapping)
    await context.directory.apply([Change("mapping", organization.epoch, mapping)])


async def _tell(context: ManagementContext, row: MappingRow) -> None:
    # Other processes hear of it by the change feed; this one need not wait for that.
    await context.directory.apply([Change("mapping", row.epoch, row.id)])


def _answer(row: MappingRow) -> MappingAnswer:
    known = mappings.mapping_of(row)
    return MappingAnswer(known.id, known.name, known.enabled, known.gateways, known.rules)


def _shown(row: MappingRow) -> Response[MappingAnswer]:
    return Response(_answer(row), status_code=200, headers={"ETag": etag(row.version)})


def _made(organization_id: str, row: MappingRow) -> Response[MappingAnswer]:
    location = f"/organizations/{organization_id}/mappings/{row.id}"
    return Response(_answer(row), status_code=201, headers={"Location": location, "ETag": etag(row.version)})

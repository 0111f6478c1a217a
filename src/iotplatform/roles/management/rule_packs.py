"""`/rule-packs`: sets of rules that many organizations share."""

from __future__ import annotations

import uuid
from typing import Annotated

import msgspec
from litestar import Response, delete, get, post, put
from litestar.di import NamedDependency
from litestar.openapi.datastructures import ResponseSpec
from litestar.params import FromPath, JSONBody

from iotplatform.adapters.postgres import rule_packs
from iotplatform.adapters.postgres.rule_packs import PackVersion, StoredPack
from iotplatform.domain.identifiers import identifier_fault
from iotplatform.domain.principal import Principal
from iotplatform.domain.rule_pack import MAX_RULES, RulePack, id_in_organization
from iotplatform.domain.timestamps import format_timestamp
from iotplatform.errors import Fault, Rejected
from iotplatform.roles.management.access import PLATFORM
from iotplatform.roles.management.context import ManagementContext, known_form, not_found
from iotplatform.roles.management.etags import IfMatch, IfNoneMatch, etag, precondition
from iotplatform.roles.management.fields import Body, Identifier, Name
from iotplatform.roles.management.paging import (
    BY_ID,
    BY_PLACE,
    DEFAULT_LIMIT,
    Cursor,
    Limit,
    Page,
    decode_cursor,
    page,
)
from iotplatform.roles.management.rule_bodies import SharedRule


class PackBody(Body, frozen=True):
    """A pack as it is to be. Each rule has an `id`, unique in the pack; organizations have it as `{pack}-{id}`."""

    name: Name
    rules: Annotated[tuple[SharedRule, ...], msgspec.Meta(max_length=MAX_RULES)]
    id: Identifier | None = None

    def pack(self, pack_id: str) -> RulePack:
        """The pack that is meant.

        Raises:
            Rejected: it could not be used, with everything that is wrong.
        """
        faults = [fault for number in range(len(self.rules)) for fault in self._rule_faults(pack_id, number)]
        if self.id not in {None, pack_id}:
            faults.append(Fault("must be the id in the path, or be left out", field="id"))
        if faults:
            raise Rejected("invalid", "the rule pack is not valid", faults=tuple(faults))
        return RulePack(pack_id, self.name, tuple(rule.meant("", rule.id or "") for rule in self.rules))

    def _rule_faults(self, pack_id: str, number: int) -> list[Fault]:
        rule = self.rules[number]
        faults = [Fault(fault.detail, field=f"rules[{number}].{fault.field}") for fault in rule.faults()]
        place = f"rules[{number}].id"
        if rule.id is None:
            faults.append(Fault("is required in a rule pack", field=place))
        elif fault := identifier_fault(id_in_organization(pack_id, rule.id)):
            made = id_in_organization(pack_id, rule.id)
            faults.append(Fault(f"makes {made!r} in the organizations, and that {fault}", field=place))
        elif any(other.id == rule.id for other in self.rules[:number]):
            faults.append(Fault("is given twice", field=place))
        return faults


class PackAnswer(msgspec.Struct, frozen=True):
    id: str
    name: str
    rules: tuple[SharedRule, ...]


class PackVersionAnswer(msgspec.Struct, frozen=True):
    version: int
    changed_at: str
    changed_by: str | None
    pack: PackAnswer


@get("/rule-packs", opt=PLATFORM)
async def list_packs(
    context: NamedDependency[ManagementContext], limit: Limit = DEFAULT_LIMIT, cursor: Cursor = None
) -> Page[PackAnswer]:
    found = await rule_packs.page(context.database, limit + 1, decode_cursor(cursor, BY_ID))
    return page(found, limit, lambda known: _answer(known.pack), lambda last: last.pack.id)


@post("/rule-packs", opt=PLATFORM)
async def create_pack(
    data: JSONBody[PackBody],
    context: NamedDependency[ManagementContext],
    principal: NamedDependency[Principal],
) -> Response[PackAnswer]:
    return _response(
        await rule_packs.add(context.database, data.pack(data.id or str(uuid.uuid4())), principal.name), 201
    )


@get("/rule-packs/{pack:str}", opt=PLATFORM)
async def read_pack(pack: FromPath[str], context: NamedDependency[ManagementContext]) -> Response[PackAnswer]:
    found = await rule_packs.find(context.database, known_form("rule pack", pack))
    if found is None:
        raise not_found("rule pack", pack)
    return _response(found, 200)


@put(
    "/rule-packs/{pack:str}",
    opt=PLATFORM,
    responses={201: ResponseSpec(PackAnswer, description="made")},
)
async def put_pack(
    pack: FromPath[str],
    data: JSONBody[PackBody],
    context: NamedDependency[ManagementContext],
    principal: NamedDependency[Principal],
    *,
    if_match: IfMatch = None,
    if_none_match: IfNoneMatch = None,
) -> Response[PackAnswer]:
    """The organizations that have the pack follow within moments."""
    expected = precondition(if_match, if_none_match)
    if fault := identifier_fault(pack):
        raise Rejected("invalid", "the id in the path is not valid", faults=(Fault(fault, field="id"),))
    stored, made = await rule_packs.put(context.database, data.pack(pack), principal.name, expected)
    return _response(stored, 201 if made else 200)


@delete("/rule-packs/{pack:str}", opt=PLATFORM)
async def delete_pack(
    pack: FromPath[str], context: NamedDependency[ManagementContext], if_match: IfMatch = None
) -> None:
    """Only once no organization has it any more."""
    expected = precondition(if_match)
    if not await rule_packs.remove(context.database, known_form("rule pack", pack), expected):
        raise not_found("rule pack", pack)


@get("/rule-packs/{pack:str}/versions", opt=PLATFORM)
async def list_pack_versions(
    pack: FromPath[str],
    context: NamedDependency[ManagementContext],
    limit: Limit = DEFAULT_LIMIT,
    cursor: Cursor = None,
) -> Page[PackVersionAnswer]:
    """The newest first."""
    before = decode_cursor(cursor, BY_PLACE)
    found = await rule_packs.versions(context.database, known_form("rule pack", pack), limit + 1, before)
    if not found and before is None:
        raise not_found("rule pack", pack)
    return page(found, limit, _version_answer, lambda last: last.version)


def _response(stored: StoredPack, status_code: int) -> Response[PackAnswer]:
    headers = {"ETag": etag(stored.tag)}
    if status_code == 201:
        headers["Location"] = f"/rule-packs/{stored.pack.id}"
    return Response(_answer(stored.pack), status_code=status_code, headers=headers)


def _answer(pack: RulePack) -> PackAnswer:
    rules = [
        {name: value for name, value in msgspec.to_builtins(rule).items() if name != "organization_id"}
        for rule in pack.rules
    ]
    return PackAnswer(pack.id, pack.name, msgspec.convert(rules, tuple[SharedRule, ...]))


def _version_answer(found: PackVersion) -> PackVersionAnswer:
    return PackVersionAnswer(found.version, format_timestamp(found.changed_at), found.changed_by, _answer(found.pack))

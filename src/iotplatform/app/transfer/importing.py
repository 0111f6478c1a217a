"""A file made an organization: looked at from end to end first, its rows in one transaction, its readings by parts.

An import that ends before its last reading is gone on with by the same command; the rows say how far it has come.
"""

from __future__ import annotations

import asyncio
import re
import uuid
from collections.abc import Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import Any, Final

import msgspec

from iotplatform.adapters.postgres import imports, organizations
from iotplatform.adapters.postgres.imports import Begun
from iotplatform.adapters.postgres.transfer import Arriving, arriving
from iotplatform.adapters.webhook.addresses import Destinations
from iotplatform.app.settings import Settings
from iotplatform.app.transfer.archive import Archive, Manifest, Member
from iotplatform.app.transfer.kinds import KINDS, ORGANIZATION, PACKS, part_path, path_of
from iotplatform.app.transfer.lines import Destination, Line
from iotplatform.app.transfer.places import Target, open_target
from iotplatform.app.transfer.readings import check_readings, store_part
from iotplatform.app.transfer.things import ChannelLine, LimitsLine, OrganizationLine, PackLine, RuleLine
from iotplatform.domain.organization import Organization
from iotplatform.domain.rule import Rule
from iotplatform.errors import Rejected
from iotplatform.roles.management import channel_bodies

LINES_AT_ONCE: Final = 500
_PART: Final = re.compile(r"readings/(\d{5})\.ndjson\.gz")

_decoders: Final[Mapping[str, msgspec.json.Decoder[Any]]] = {
    kind: msgspec.json.Decoder(type_) for kind, type_ in KINDS.items()
}
_encode = msgspec.json.Encoder().encode
_Rules = tuple[Rule, ...]


class Imported(msgspec.Struct, frozen=True):
    """`resumed`: it was begun before. `channels`: those that have lost their secrets, and are switched off."""

    organization_id: str
    manifest: Manifest
    channels: list[str]
    resumed: bool


class Looked(msgspec.Struct):
    organization: OrganizationLine | None = None
    stream_bytes: int | None = None
    channels: list[str] = msgspec.field(default_factory=list)
    packs: set[str] = msgspec.field(default_factory=set)
    wanted_packs: set[str] = msgspec.field(default_factory=set)


async def import_organization(
    settings: Settings, path: Path, as_id: str | None, *, channels_off: bool = False
) -> Imported:
    """Raises:
    ConfigError: the file is none, damaged, or holds what the API would not take.
    Rejected: the organization exists, or can't be made as it is.
    Unavailable: a server is away; what was begun can be gone on with.
    """
    archive = await asyncio.to_thread(Archive, path)
    try:
        organization_id = as_id or archive.manifest.organization_id
        async with open_target(settings) as target:
            known = await _begun(target, organization_id, archive.checksum)
            to = Destination(organization_id, lambda own: own, channels_off)
            looked = await asyncio.to_thread(look_through, archive, to)
            await check_channels(archive, Destinations(settings.webhook_settings))
            if known is None:
                organization = await make(target, archive, looked, to)
                done = 0
            else:
                organization, done = known.organization, known.parts
            await target.directory.load()
            if looked.stream_bytes is not None:
                await target.streams.resize_organization(organization.id, looked.stream_bytes)
            for number, member in enumerate(_parts(archive), start=1):
                if number > done:
                    await store_part(target, organization.epoch, archive, member)
                    await imports.advance(target.database, organization.epoch, number)
            await imports.finish(target.database, organization.epoch)
            return Imported(organization_id, archive.manifest, looked.channels, known is not None)
    finally:
        archive.close()


async def _begun(target: Target, organization_id: str, checksum: str) -> Begun | None:
    """An import of this file that was not finished.

    Raises:
        Rejected: the organization is there, for another reason.
    """
    known = await imports.begun(target.database, organization_id)
    if known is not None and not known.finished and known.checksum == checksum:
        return known
    if known is not None and not known.finished:
        raise Rejected(
            "conflict",
            f"the organization {organization_id!r} exists, by an import of another file that was not finished: go on"
            " with that file, or delete the organization first",
        )
    if await organizations.find(target.database, organization_id) is not None:
        raise Rejected(
            "conflict",
            f"the organization {organization_id!r} exists already: delete it first, or give the new one another id"
            " with --as",
        )
    return None


def look_through(archive: Archive, to: Destination) -> Looked:
    """At everything that is in the file, before anything is made of it."""
    looked = Looked()
    known = {path_of(kind) for kind in KINDS}
    for member in archive.manifest.members:
        if member.path not in known and not _PART.fullmatch(member.path):
            raise archive.wrong(f"{member.path}: is nothing that this version knows")
        archive.check(member)
    for kind in KINDS:
        member = _member(archive, kind)
        for number, line in enumerate(_lines(archive, kind, member), start=1):
            with _Place(archive, member, number):
                line.check()
                line.arranged(to)
                _note(looked, line)
    if looked.organization is None or looked.organization.id != archive.manifest.organization_id:
        raise archive.wrong("does not say of which organization it is: it has been tampered with")
    if missing := looked.wanted_packs - looked.packs:
        raise archive.wrong(f"has rules of the pack {min(missing)!r}, and not the pack: it has been tampered with")
    count = sum(check_readings(archive, member) for member in _parts(archive))
    if count != archive.manifest.readings:
        raise archive.wrong(f"holds {count} readings, and {archive.manifest.readings} by the manifest")
    return looked


async def check_channels(archive: Archive, destinations: Destinations) -> None:
    """Where webhooks lead is known by asking."""
    member = _member(archive, "channels")
    for number, line in enumerate(await asyncio.to_thread(list, _lines(archive, "channels", member)), start=1):
        assert isinstance(line, ChannelLine)  # noqa: S101 - of this kind
        with _Place(archive, member, number):
            await channel_bodies.check(line.body, line.id, destinations)


def _note(looked: Looked, line: Line) -> None:
    match line:
        case OrganizationLine():
            if looked.organization is not None:
                raise Rejected("invalid", "there is a second organization")
            looked.organization = line
        case LimitsLine():
            looked.stream_bytes = line.definition.stream_bytes
        case ChannelLine() if line.had_secrets:
            looked.channels.append(line.id)
        case PackLine():
            looked.packs.add(line.id)
        case RuleLine() if line.pack_id is not None:
            looked.wanted_packs.add(line.pack_id)
        case _:
            pass


async def make(target: Target, archive: Archive, looked: Looked, to: Destination) -> Organization:
    """All rows, in one transaction."""
    assert looked.organization is not None  # noqa: S101 - looked for
    own = looked.organization
    # It is as old as it is here: what MQTT brought for an id before that is not its own.
    new = (to.organization_id, own.name, own.partitions)
    async with arriving(target.database, new, target.streams.renew_organization) as here:
        epoch = here.organization.epoch
        to = msgspec.structs.replace(to, renamed=lambda old: uuid.uuid5(old, f"imported.{epoch}"))
        for kind in KINDS:
            if kind == PACKS:
                to = msgspec.structs.replace(to, pack_versions=await _packs(here, archive))
            elif kind != ORGANIZATION:
                await here.begin(kind)
                lines = _lines(archive, kind, _member(archive, kind))
                while some := await asyncio.to_thread(_rows, lines, to):
                    await here.add(kind, some)
        about = {"organization_id": own.id, "created_at": own.created_at, "exported_at": archive.manifest.created_at}
        await here.finish(archive.checksum, _encode(about).decode())
        return here.organization


def _rows(lines: Iterator[Line], to: Destination) -> list[bytes]:
    """The next ones."""
    return [_encode(line.arranged(to)) for line in islice(lines, LINES_AT_ONCE)]


async def _packs(here: Arriving, archive: Archive) -> dict[str, int]:
    """The versions that the organization's packs have here.

    Raises:
        Rejected: one of them is another one here.
    """
    versions: dict[str, int] = {}
    for line in await asyncio.to_thread(list, _lines(archive, PACKS, _member(archive, PACKS))):
        assert isinstance(line, PackLine)  # noqa: S101 - of this kind
        pack = line.pack()
        found = await here.pack(pack.id, pack.name, _encode(pack.rules).decode())
        if found is None or msgspec.json.decode(found[0], type=_Rules) != pack.rules:
            raise Rejected(
                "conflict",
                f"there is a rule pack {pack.id!r} here whose rules are not those of the file: make them equal, or"
                " take the pack away from the organization before it is exported",
            )
        versions[pack.id] = found[1]
    return versions


def _member(archive: Archive, kind: str) -> Member:
    path = path_of(kind)
    found = next((member for member in archive.manifest.members if member.path == path), None)
    if found is None:
        raise archive.wrong(f"lacks {path}: it is damaged")
    return found


def _parts(archive: Archive) -> list[Member]:
    parts = sorted(
        (member for member in archive.manifest.members if _PART.fullmatch(member.path)), key=lambda part: part.path
    )
    if [part.path for part in parts] != [part_path(number) for number in range(1, len(parts) + 1)]:
        raise archive.wrong("lacks a part of the readings: it is damaged")
    return parts


def _lines(archive: Archive, kind: str, member: Member) -> Iterator[Line]:
    decode = _decoders[kind].decode
    for number, text in enumerate(archive.lines(member), start=1):
        with _Place(archive, member, number):
            line: Line = decode(text)
        yield line


class _Place:
    """Says where in the file something is wrong."""

    def __init__(self, archive: Archive, member: Member, number: int) -> None:
        self._archive, self._place = archive, f"{member.path}: line {number}"

    def __enter__(self) -> None: ...

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if isinstance(error, Rejected):
            faults = "; ".join(f"{fault.field or 'it'}: {fault.detail}" for fault in error.faults[:5])
            said = f"{error.detail}: {faults}" if faults else error.detail
            raise self._archive.wrong(f"{self._place}: {said}") from error
        if isinstance(error, (msgspec.DecodeError, UnicodeError, RecursionError)):
            raise self._archive.wrong(f"{self._place}: {error}") from error

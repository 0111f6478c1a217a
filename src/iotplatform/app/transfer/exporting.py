"""One organization written to a file: its rows as of one moment, and its readings, page by page."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

import msgspec

from iotplatform import __version__
from iotplatform.adapters.postgres import organizations
from iotplatform.adapters.postgres.transfer import TABLES, Leaving, leaving
from iotplatform.app.settings import Settings
from iotplatform.app.transfer.archive import FORMAT, ArchiveWriter, Manifest
from iotplatform.app.transfer.kinds import KINDS, ORGANIZATION, PACKS, part_path, path_of
from iotplatform.app.transfer.places import Source, open_source
from iotplatform.app.transfer.things import OrganizationLine, PackLine
from iotplatform.domain.organization import Organization
from iotplatform.domain.reading import Reading
from iotplatform.domain.telemetry import Place, TelemetryRange
from iotplatform.domain.timestamps import to_datetime
from iotplatform.errors import Rejected

LINES_AT_ONCE: Final = 500
READINGS_IN_A_PAGE: Final = 5_000
PAGES_IN_A_PART: Final = 200

_encode = msgspec.json.Encoder().encode


async def export(settings: Settings, organization_id: str, target: Path) -> Manifest:
    """Raises:
    ConfigError: it can't be written there.
    Rejected: there is no such organization, or it went away meanwhile.
    Unavailable: a server is away.
    """
    async with open_source(settings) as source:
        with ArchiveWriter(target) as archive:
            async with leaving(source.database, organization_id) as rows:
                organization = rows.organization
                for kind in KINDS:
                    with archive.lines(path_of(kind)) as member:
                        async for some in _lines(rows, kind):
                            await asyncio.to_thread(member.write, some)
                left_out = await rows.left_out()
            readings = await _write_readings(source, organization, archive)
            row = await organizations.find(source.database, organization_id)
            if row is None or row.epoch != organization.epoch:
                raise Rejected("conflict", f"the organization {organization_id!r} was deleted meanwhile")
            manifest = Manifest(
                format=FORMAT,
                version=__version__,
                created_at=datetime.now(UTC).isoformat(timespec="seconds").replace("+00:00", "Z"),
                organization_id=organization_id,
                readings=readings,
                left_out=left_out,
                members=archive.members,
            )
            archive.finish(manifest)
            return manifest


async def _lines(rows: Leaving, kind: str) -> AsyncIterator[list[bytes]]:
    if kind == ORGANIZATION:
        own = rows.organization
        line = OrganizationLine(
            id=own.id, name=own.name, partitions=own.partitions, created_at=to_datetime(own.created_at)
        )
        yield [_encode(line)]
    elif kind == PACKS:
        packs = await rows.packs()
        yield [_encode(PackLine(id=each, name=name, rules=msgspec.json.decode(rules))) for each, name, rules in packs]
    elif kind in TABLES:
        some: list[bytes] = []
        async for row in rows.rows(kind):
            # Line ends in texts are escaped, those between members were made by PostgreSQL: there are none.
            some.append(row.encode())
            if len(some) == LINES_AT_ONCE:
                yield some
                some = []
        yield some


async def _write_readings(source: Source, organization: Organization, archive: ArchiveWriter) -> int:
    count = part = 0
    place: Place | None = None
    page: list[Reading] | None = None
    while page is None or page:
        part += 1
        with archive.lines(part_path(part)) as member:
            for _ in range(PAGES_IN_A_PART):
                page = await source.telemetry.store.page(
                    organization.epoch, READINGS_IN_A_PAGE, place, TelemetryRange()
                )
                if not page:
                    break
                await asyncio.to_thread(member.write, [_encode(reading) for reading in page])
                count += len(page)
                last = page[-1]
                place = (last.device_id, last.sensor, last.at)
    return count

"""An import on a real PostgreSQL: all rows of a file, or none."""

from __future__ import annotations

import asyncio
import copy
import json
import uuid
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from iotplatform.adapters.postgres import imports
from iotplatform.adapters.postgres.connection import Database
from iotplatform.adapters.postgres.examination import examine_postgres
from iotplatform.adapters.postgres.transfer import TABLES
from iotplatform.app.transfer import importing
from iotplatform.app.transfer.archive import Archive
from iotplatform.app.transfer.lines import Destination
from iotplatform.app.transfer.places import Target
from iotplatform.domain.organization import Organization
from iotplatform.errors import Rejected, Unavailable
from tests.unit.app.transfer.test_files import READINGS, WHOLE, write

Lines = dict[str, list[dict[str, Any]]]


@pytest.fixture
async def database(database_url: str) -> AsyncIterator[Database]:
    opened = await Database.open(database_url, pool_size=2)
    yield opened
    await opened.close()


class Importer:
    """Imports files under an id of its own; `fails`: the stream can't be made."""

    def __init__(self, database: Database, folder: Path) -> None:
        self.id = f"org-{uuid.uuid4().hex[:12]}"
        self.pack = f"pack-{uuid.uuid4().hex[:12]}"
        self.fails = False
        self.database = database
        self._file = folder / "acme.tar"
        streams = SimpleNamespace(renew_organization=self._make_stream)
        self._target = cast("Target", SimpleNamespace(database=database, streams=streams))

    async def _make_stream(self, organization: Organization) -> None:
        assert organization.id == self.id
        if self.fails:
            raise Unavailable("no stream today")

    async def run(self, change: Callable[[Lines], object] = lambda _: None) -> Organization:
        lines = json.loads(json.dumps(WHOLE).replace('"basics"', f'"{self.pack}"'))
        change(lines)
        self._file.unlink(missing_ok=True)
        await asyncio.to_thread(write, self._file, lines, READINGS)
        archive = await asyncio.to_thread(Archive, self._file)
        to = Destination(self.id, lambda own: own)
        looked = await asyncio.to_thread(importing.look_through, archive, to)
        try:
            return await importing.make(self._target, archive, looked, to)
        finally:
            archive.close()

    async def left(self) -> list[int]:
        """What there is of it."""
        queries = (
            "SELECT count(*) FROM organizations WHERE id = $1",
            "SELECT count(*) FROM audit WHERE organization_id = $1",
            "SELECT count(*) FROM changes WHERE kind = 'organization' AND key = $1",
        )
        counts = [int(await self.database.pool.fetchval(query, self.id)) for query in queries]
        return [
            *counts,
            int(await self.database.pool.fetchval("SELECT count(*) FROM rule_packs WHERE id = $1", self.pack)),
        ]


@pytest.fixture
def importer(database: Database, tmp_path: Path) -> Importer:
    return Importer(database, tmp_path)


async def test_all_of_it(importer: Importer) -> None:
    made = await importer.run()
    pool = importer.database.pool
    for kind, lines in WHOLE.items():
        if kind in TABLES:
            table = TABLES[kind]
            found = await pool.fetchval(f"SELECT count(*) FROM {table.name} WHERE {table.epoch} = $1", made.epoch)
            # What happened there, and that it came here.
            assert found == len(lines) + (kind == "audit"), kind
    assert await importer.left() == [1, 2, 1, 1]
    assert await pool.fetchval("SELECT count(*) FROM partitions WHERE epoch = $1", made.epoch) == 2
    # A rule that is of a pack is as new as the pack is here.
    version = await pool.fetchval("SELECT version FROM rule_packs WHERE id = $1", importer.pack)
    assert await pool.fetchval("SELECT tried FROM rule_pack_organizations WHERE epoch = $1", made.epoch) == version
    with pytest.raises(Rejected, match="exists already"):
        await importer.run()

    # Its readings are still to come, and until then somebody may ask what is wrong.
    async def told() -> bool:
        return any(f"import of {importer.id!r}" in found.detail for found in await examine_postgres(pool_url))

    pool_url = importer.database.url
    assert await told()
    await imports.finish(importer.database, made.epoch)
    assert not await told()


def twice(kind: str) -> Callable[[Lines], object]:
    return lambda lines: lines[kind].append(copy.deepcopy(lines[kind][0]))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (twice("devices"), "contradicts itself"),
        (twice("alarms"), "contradicts itself"),
        (twice("rules"), "contradicts itself"),
        (lambda lines: lines["device_limits"][0].update(device_id="nobody"), "contradicts itself"),
        (lambda lines: lines["limits"][0]["definition"].update(devices=0), "may have 0 devices"),
        (lambda lines: lines["limits"][0]["definition"].update(mappings=0), "may have 0 mappings"),
    ],
)
async def test_or_nothing(importer: Importer, change: Callable[[Lines], object], said: str) -> None:
    with pytest.raises(Rejected, match=said):
        await importer.run(change)
    assert await importer.left() == [0, 0, 0, 0]


async def test_nothing_without_a_stream(importer: Importer) -> None:
    importer.fails = True
    with pytest.raises(Unavailable, match="no stream today"):
        await importer.run()
    assert await importer.left() == [0, 0, 0, 0]


async def test_a_pack_that_is_another_one_here(importer: Importer) -> None:
    """The pack stays what it is, and the organization is not made with rules that it would lose at once."""
    await importer.database.pool.execute(
        "INSERT INTO rule_packs (id, name, rules) VALUES ($1, 'Mine', '[]')", importer.pack
    )
    with pytest.raises(Rejected, match="whose rules are not those of the file"):
        await importer.run()
    assert await importer.left() == [0, 0, 0, 1]
    assert await importer.database.pool.fetchval("SELECT rules FROM rule_packs WHERE id = $1", importer.pack) == "[]"

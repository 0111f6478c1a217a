"""Code of the release before goes on working on the new schema: a migration adds, and takes nothing away.

One that takes away (a contraction) says so by `contracts = "<revision>"`, an earlier one: the release that had this as
its newest revision was the last one to use what goes.
"""

from __future__ import annotations

import re
import uuid
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import asyncpg
import pytest
from sqlalchemy import Engine, event

from iotplatform.adapters.postgres.migrations import migrate

DESTRUCTIVE = re.compile(
    r"\b(DROP\s+(TABLE|COLUMN|VIEW|MATERIALIZED|TYPE|SEQUENCE|SCHEMA|DEFAULT)|TRUNCATE|RENAME|SET\s+NOT\s+NULL"
    r"|ALTER\s+COLUMN\s+\S+\s+(SET\s+DATA\s+)?TYPE)\b",
    re.IGNORECASE,
)
# Old code gives no value for what it does not know.
DEMANDED = re.compile(r"\bADD\s+COLUMN\s+(?!.*\b(DEFAULT|GENERATED)\b).*\bNOT\s+NULL\b", re.IGNORECASE)
VERSION = re.compile(r"alembic_version.*?'(\d{4}\w*)'", re.IGNORECASE | re.DOTALL)


def faults_of(statement: str) -> list[str]:
    """What old code would stumble over. Bodies of functions are not looked at: they run, they don't change tables."""
    plain = re.sub(r"\$(\w*)\$.*?\$\1\$", "", statement, flags=re.DOTALL)
    plain = re.sub(r"--[^\n]*", "", plain)
    # What a trigger is for.
    plain = re.sub(r"\bOR\s+TRUNCATE\b", "", plain)
    parts = re.split(r";|,(?![^()]*\))", plain)
    return [part.strip() for part in parts if DESTRUCTIVE.search(part) or DEMANDED.search(part.replace("\n", " "))]


@pytest.mark.parametrize(
    "statement",
    [
        "ALTER TABLE a DROP COLUMN b",
        "ALTER TABLE a ADD COLUMN b int DEFAULT 0 NOT NULL, ADD COLUMN c int NOT NULL",
        "DROP TABLE a",
        "ALTER TABLE a RENAME TO b",
        "ALTER TABLE a ALTER COLUMN b SET NOT NULL",
        "ALTER TABLE a ALTER COLUMN b TYPE bigint",
        "truncate a",
    ],
)
def test_what_takes_away_is_seen(statement: str) -> None:
    assert faults_of(statement)


@pytest.mark.parametrize(
    "statement",
    [
        "CREATE TABLE a (b int NOT NULL)",
        "ALTER TABLE a ADD COLUMN b numeric(10, 2) NOT NULL DEFAULT 0",
        "ALTER TABLE a DROP CONSTRAINT b, ADD COLUMN c text",
        "CREATE FUNCTION f() RETURNS void LANGUAGE plpgsql AS $$ BEGIN DROP TABLE x; END $$",
        "CREATE TRIGGER t BEFORE UPDATE OR TRUNCATE ON a FOR EACH STATEMENT EXECUTE FUNCTION f()",
    ],
)
def test_what_adds_is_let_through(statement: str) -> None:
    assert faults_of(statement) == []


@pytest.fixture
async def empty_url(database_url: str) -> AsyncIterator[str]:
    name = f"expanding_{uuid.uuid4().hex}"
    admin = await asyncpg.connect(database_url)
    await admin.execute(f"CREATE DATABASE {name} TEMPLATE template0")
    yield urlsplit(database_url)._replace(path=f"/{name}").geturl()
    await admin.execute(f"DROP DATABASE {name} WITH (FORCE)")
    await admin.close()


@contextmanager
def statements() -> Iterator[list[str]]:
    found: list[str] = []

    def note(_connection: Any, _cursor: Any, statement: str, parameters: Any, *_: Any) -> None:
        found.append(statement if not parameters else f"{statement} {parameters}")

    event.listen(Engine, "before_cursor_execute", note)
    try:
        yield found
    finally:
        event.remove(Engine, "before_cursor_execute", note)


def contraction_of(repository: Path, revision: str) -> str | None:
    (file,) = (repository / "migrations" / "versions").glob(f"{revision}*.py")
    found = re.search(r'^contracts(?::[^=]*)? = "(\w+)"$', file.read_text(), re.MULTILINE)
    return found[1] if found else None


async def test_no_migration_takes_anything_away_unsaid(empty_url: str, repository: Path) -> None:
    with statements() as executed:
        await migrate(empty_url)
    revisions: list[str] = []
    faults: list[str] = []
    for statement in executed:
        if version := VERSION.search(statement):
            revision = version[1]
            contracts = contraction_of(repository, revision)
            if faults and revisions:
                assert contracts in revisions, f"{revision} takes away, and names no earlier release: {faults}"
            revisions.append(revision)
            faults = []
        else:
            faults += faults_of(statement)
    files = sorted((repository / "migrations" / "versions").glob("0*.py"))
    assert [revision[:4] for revision in revisions] == [file.name[:4] for file in files]
    assert faults == []

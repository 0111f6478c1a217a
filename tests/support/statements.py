"""What the program asks of PostgreSQL: recorded while its tests run, kept with a release, and tried on later schemas.

With RECORD_STATEMENTS a process writes into that folder, when it ends, each statement that came from the program, with
the types of what it was given and of what came back. `python -m tests.support.statements FOLDER FILE` joins them.
"""

from __future__ import annotations

import atexit
import json
import os
import sys
import uuid
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import asyncpg
import msgspec

VARIABLE = "RECORD_STATEMENTS"
SOURCE = f"{os.sep}src{os.sep}iotplatform{os.sep}"
# Those change the schema, and belong to no release's daily work.
MIGRATIONS = ("migrations.py", f"migrations{os.sep}")
LONGEST = 8_000
ASKED = ("SELECT", "INSERT", "UPDATE", "DELETE", "WITH")


class Statement(msgspec.Struct, frozen=True, omit_defaults=True, order=True):
    """`copied`: rows are copied into the table `sql`, whose `columns` are named. `made`: what has to be run before."""

    sql: str
    parameters: tuple[str, ...] = ()
    columns: tuple[tuple[str, str], ...] = ()
    copied: bool = False
    made: bool = False


def start_recording() -> None:
    """Does nothing unless it was asked for."""
    folder = os.environ.get(VARIABLE)
    if not folder:
        return
    found: set[Statement] = set()
    connection: Any = asyncpg.Connection
    get_statement, copy_to_table, execute = connection._get_statement, connection.copy_to_table, connection.execute

    async def getting(self: Any, query: str, *arguments: Any, **options: Any) -> Any:
        state = await get_statement(self, query, *arguments, **options)
        if is_ours() and query.lstrip().upper().startswith(ASKED):
            found.add(described(query, state._get_parameters(), state._get_attributes()))
        return state

    async def copying(self: Any, table_name: str, *, columns: Iterable[str] | None = None, **options: Any) -> Any:
        if is_ours():
            found.add(Statement(table_name, columns=tuple((name, "") for name in columns or ()), copied=True))
        return await copy_to_table(self, table_name, columns=columns, **options)

    async def executing(self: Any, query: str, *arguments: Any, **options: Any) -> Any:
        if is_ours() and query.lstrip().upper().startswith("CREATE TEMP TABLE"):
            found.add(Statement(query, made=True))
        return await execute(self, query, *arguments, **options)

    connection._get_statement, connection.copy_to_table, connection.execute = getting, copying, executing
    atexit.register(lambda: write(Path(folder) / f"{uuid.uuid4()}.jsonl", found))


def described(query: str, parameters: Iterable[Any], attributes: Iterable[Any] | None) -> Statement:
    columns = tuple((each.name, each.type.name) for each in attributes or ())
    return Statement(query, tuple(each.name for each in parameters), columns)


def is_ours() -> bool:
    """Whether the program asks, and not a test."""
    frame: Any = sys._getframe(2)
    while frame is not None:
        name = frame.f_code.co_filename
        if SOURCE in name:
            return not name.endswith(MIGRATIONS[0]) and MIGRATIONS[1] not in name.partition(SOURCE)[2]
        frame = frame.f_back
    return False


def write(file: Path, statements: Iterable[Statement]) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    lines = [json.dumps(msgspec.to_builtins(each), ensure_ascii=False) for each in sorted(statements)]
    file.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")


def read(file: Path) -> list[Statement]:
    return [msgspec.json.decode(line, type=Statement) for line in file.read_text(encoding="utf-8").splitlines()]


def join(folder: Path, target: Path) -> int:
    """How many different ones there are. The longest name thousands of things, as shorter ones name a few."""
    found = {each for file in folder.glob("*.jsonl") for each in read(file) if len(each.sql) < LONGEST}
    write(target, found)
    return len(found)


if __name__ == "__main__":
    print(join(Path(sys.argv[1]), Path(sys.argv[2])), "statements")

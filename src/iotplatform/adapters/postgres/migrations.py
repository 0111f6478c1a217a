"""Brings the schema to head. The migrations lie beside the package in a checkout and inside it in a wheel."""

from __future__ import annotations

import asyncio
import threading
from pathlib import Path

import asyncpg
from alembic import command
from alembic.config import Config
from alembic.script import ScriptDirectory

import iotplatform
from iotplatform.adapters.postgres.boards import grant_boards
from iotplatform.adapters.postgres.connection import CONNECT_TIMEOUT_S
from iotplatform.adapters.postgres.errors import translated

# Alembic keeps the migration that runs in variables of its modules: one at a time in a process.
_one_at_a_time = threading.Lock()


def _config(url: str) -> Config:
    package = Path(iotplatform.__file__).resolve().parent
    inside = package / "_migrations"
    directory = inside if inside.is_dir() else package.parent.parent / "migrations"
    config = Config()
    # The settings of Alembic interpolate `%`, which paths and URLs may contain; attributes are taken as they are.
    config.set_main_option("script_location", str(directory).replace("%", "%%"))
    config.attributes["url"] = url
    return config


async def migrate(url: str) -> None:
    """Bring the database to head. Several processes may do so at once: one works, the others wait for it.

    Raises:
        Unavailable: when the server can't be reached now.
    """
    with translated():
        # In a thread with a loop of its own: Alembic reads files and is synchronous.
        await asyncio.to_thread(_upgrade, url)
        connection = await asyncpg.connect(url, timeout=CONNECT_TIMEOUT_S)
        try:
            await grant_boards(connection)
        finally:
            await connection.close()


def _upgrade(url: str) -> None:
    with _one_at_a_time:
        command.upgrade(_config(url), "head")


def newest() -> str:
    """The last migration that this version of the program knows."""
    return str(ScriptDirectory.from_config(_config("")).get_current_head())


def is_known(revision: str) -> bool:
    """Whether this version of the program can go on from there."""
    return any(script.revision == revision for script in ScriptDirectory.from_config(_config("")).walk_revisions())


def _head(url: str) -> str | None:
    return ScriptDirectory.from_config(_config(url)).get_current_head()


async def at_head(url: str) -> bool:
    """Whether the database has every migration that this version of the program knows.

    Raises:
        Unavailable: when the server can't be reached now.
    """
    head = await asyncio.to_thread(_head, url)
    with translated():
        connection = await asyncpg.connect(url, timeout=CONNECT_TIMEOUT_S)
        try:
            current = await connection.fetchval("SELECT version_num FROM alembic_version")
        except asyncpg.UndefinedTableError:
            return False
        finally:
            await connection.close()
    return bool(current == head)

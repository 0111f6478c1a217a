"""`iotplatform ledger`: what became of every accepted reading; exit code 1 when it doesn't balance."""

from __future__ import annotations

import argparse
import asyncio
import os

from iotplatform.adapters.nats.connection import Connection
from iotplatform.adapters.postgres.connection import Database
from iotplatform.adapters.postgres.directory import Directory
from iotplatform.adapters.redis.connection import RedisConnection
from iotplatform.adapters.redis.counters import Counters
from iotplatform.app.ledger import LedgerReader
from iotplatform.app.runtime_file import read_runtime_file
from iotplatform.app.settings import Settings
from iotplatform.app.settings_source import load_settings
from iotplatform.domain.ledger import LedgerEntry
from iotplatform.errors import Unavailable
from iotplatform.observability.metrics import Metrics
from iotplatform.runtime.tasks import Tasks

CONNECTED_WITHIN_S = 5.0
COLUMNS = ("organization", "accepted", "stored", "dead-lettered", "in flight", "refused", "unused", "balanced")


def add_parser(
    subparsers: argparse._SubParsersAction[argparse.ArgumentParser], common: argparse.ArgumentParser
) -> None:
    parser = subparsers.add_parser(
        "ledger", parents=[common], help="accepted, stored, dead-lettered and in flight for each organization"
    )
    parser.add_argument("--organization", metavar="ORG", help="only this one")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    settings = load_settings(arguments.config, os.environ, data_dir=arguments.data_dir)
    entries = asyncio.run(_read(settings, arguments.organization))
    _print(entries)
    return 0 if all(entry.balanced for entry in entries) else 1


async def _read(settings: Settings, only: str | None) -> list[LedgerEntry]:
    running = read_runtime_file(settings.data_path)
    nats = settings.nats.url or (running.nats if running else None)
    postgres = settings.postgres.url or (running.postgres if running else None)
    redis_url = settings.redis.url or (running.redis if running else None)
    if nats is None or postgres is None or redis_url is None:
        raise Unavailable(
            f"no platform runs on {settings.data_path}: start one (`make run`), name its --data-dir, or set nats.url, "
            "postgres.url and redis.url"
        )
    database = await Database.open(postgres, pool_size=2)
    redis = RedisConnection(redis_url)
    connection = Connection(nats, Metrics(), name="iotplatform ledger", tls=settings.nats.tls)
    tasks = Tasks("ledger")
    tasks.start(connection.run(), "nats")
    try:
        if not await connection.wait_connected(CONNECTED_WITHIN_S):
            raise Unavailable("NATS is not reachable")
        directory = Directory(database)
        await directory.load()
        reader = LedgerReader(database, connection, Counters(redis))
        organizations = sorted(directory.organizations(), key=lambda organization: organization.id)
        if only is not None:
            organizations = [organization for organization in organizations if organization.id == only]
            if not organizations:
                raise Unavailable(f"there is no organization {only!r}")
        return [await reader.read(organization) for organization in organizations]
    finally:
        await tasks.stop()
        await redis.close()
        await database.close()


def _print(entries: list[LedgerEntry]) -> None:
    rows = [
        (
            entry.organization_id,
            *(str(count) for count in (entry.accepted, entry.stored, entry.dead_lettered, entry.in_flight)),
            str(entry.refused),
            str(entry.unused),
            "yes" if entry.balanced else "NO",
        )
        for entry in entries
    ]
    widths = [max(len(row[column]) for row in (COLUMNS, *rows)) for column in range(len(COLUMNS))]
    for row in (COLUMNS, *rows):
        print(
            "  ".join(
                cell.ljust(width) if not column else cell.rjust(width)
                for column, (cell, width) in enumerate(zip(row, widths, strict=True))
            )
        )
    for entry in entries:
        for gap in entry.gaps:
            print(f"{entry.organization_id}: {gap}")

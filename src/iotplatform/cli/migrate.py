"""`iotplatform migrate`: bring the database to head."""

from __future__ import annotations

import argparse
import asyncio
import os
from contextlib import AsyncExitStack

from iotplatform.adapters.embedded import DataDirectory, EmbeddedServers
from iotplatform.adapters.postgres.migrations import migrate
from iotplatform.app.runtime_file import read_runtime_file
from iotplatform.app.settings import Settings
from iotplatform.app.settings_source import load_settings
from iotplatform.errors import Unavailable


def add_parser(
    subparsers: argparse._SubParsersAction[argparse.ArgumentParser], common: argparse.ArgumentParser
) -> None:
    parser = subparsers.add_parser("migrate", parents=[common], help="bring the database to this version's schema")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    settings = load_settings(arguments.config, os.environ, data_dir=arguments.data_dir)
    asyncio.run(_migrate(settings))
    print("the database is at head")
    return 0


async def _migrate(settings: Settings) -> None:
    url = settings.postgres.url
    if url is None and (running := read_runtime_file(settings.data_path)):
        url = running.postgres
    async with AsyncExitStack() as stack:
        if url is None:
            data = stack.enter_context(DataDirectory.open(settings.data_path))
            servers = EmbeddedServers(data, settings.embedded_settings, nats=False, redis=False)
            url = (await servers.start()).postgres
            stack.push_async_callback(servers.stop)
        if url is None:
            raise Unavailable("the embedded PostgreSQL did not start")
        await migrate(url)

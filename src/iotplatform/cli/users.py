"""`iotplatform users create-admin`: somebody who can let others in."""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
import uuid
from contextlib import AsyncExitStack

from iotplatform.adapters.embedded import DataDirectory, EmbeddedServers
from iotplatform.adapters.passwords.hasher import PasswordHasher
from iotplatform.adapters.postgres import users
from iotplatform.adapters.postgres.connection import Database
from iotplatform.adapters.postgres.migrations import migrate
from iotplatform.app.runtime_file import read_runtime_file
from iotplatform.app.settings import Settings
from iotplatform.app.settings_source import load_settings
from iotplatform.domain.people import email_fault, normal_email, password_fault
from iotplatform.errors import Unavailable


def add_parser(
    subparsers: argparse._SubParsersAction[argparse.ArgumentParser], common: argparse.ArgumentParser
) -> None:
    parser = subparsers.add_parser("users", help="people who may log in")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    create = commands.add_parser("create-admin", parents=[common], help="a platform administrator")
    create.add_argument("--email", required=True, metavar="E")
    create.add_argument("--name", metavar="NAME", help="default: what stands before the @")
    create.add_argument(
        "--password-stdin", action="store_true", required=True, help="read the password from standard input"
    )
    create.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    settings = load_settings(arguments.config, os.environ, data_dir=arguments.data_dir)
    email = normal_email(arguments.email)
    password = sys.stdin.readline().rstrip("\r\n")
    for option, fault in (("--email", email_fault(email)), ("the password", password_fault(password, email))):
        if fault is not None:
            print(f"iotplatform users create-admin: {option} {fault}", file=sys.stderr)
            return 2
    asyncio.run(_create(settings, email, arguments.name or email.partition("@")[0], password))
    print(f"{email} is a platform administrator")
    return 0


async def _create(settings: Settings, email: str, name: str, password: str) -> None:
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
        database = await Database.open(url, pool_size=1)
        stack.push_async_callback(database.close)
        await users.add(
            database,
            str(uuid.uuid4()),
            email=email,
            name=name,
            password_hash=await PasswordHasher().hash(password),
            platform_admin=True,
            roles={},
        )

"""Alembic's entrance: by command line in a checkout, or by `iotplatform.adapters.postgres.migrations`."""

from __future__ import annotations

import asyncio
import os

from alembic import context
from sqlalchemy import Connection, text
from sqlalchemy.dialects.postgresql.base import ischema_names

from iotplatform.adapters.postgres.connection import make_engine
from iotplatform.adapters.postgres.models import Model, Xid8

# Any number will do, as long as it is always the same one; this is "iotp" in ASCII.
LOCK = 0x696F7470
LOCK_TIMEOUT = "60s"

# SQLAlchemy does not know this type when it reads a schema.
ischema_names["xid8"] = Xid8


def database_url() -> str:
    given = context.config.attributes.get("url") or context.get_x_argument(as_dictionary=True).get("url")
    url = given or os.environ.get("IOTPLATFORM_POSTGRES__URL")
    if not url:
        raise SystemExit("no database given: use -x url=postgresql://... or IOTPLATFORM_POSTGRES__URL")
    return str(url)


def run(connection: Connection) -> None:
    context.configure(
        connection=connection, target_metadata=Model.metadata, compare_server_default=True, transactional_ddl=True
    )
    with context.begin_transaction():
        # Held until the commit, so a second process finds everything done when its turn comes.
        connection.execute(text(f"SET LOCAL lock_timeout = '{LOCK_TIMEOUT}'"))
        connection.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": LOCK})
        context.run_migrations()


async def run_online(url: str) -> None:
    engine = make_engine(url, pool_size=1)
    try:
        async with engine.connect() as connection:
            await connection.run_sync(run)
    finally:
        await engine.dispose()


if context.is_offline_mode():
    context.configure(dialect_name="postgresql", target_metadata=Model.metadata, literal_binds=True)
    with context.begin_transaction():
        context.run_migrations()
else:
    # Reads the migration files now, outside the event loop: they are loaded at the first question.
    context.script.get_heads()
    asyncio.run(run_online(database_url()))

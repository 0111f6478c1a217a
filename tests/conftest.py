"""One embedded stack for the whole session, and one running platform for what looks at it from outside."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from urllib.parse import urlsplit

import asyncpg
import pytest
import structlog
from blockbuster import BlockBuster, blockbuster_ctx
from hypothesis import settings as hypothesis_settings

from iotplatform.adapters.embedded import DataDirectory, EmbeddedServers, EmbeddedSettings, ServerUrls
from iotplatform.adapters.postgres.migrations import migrate
from tests.support.blocking import allow_known
from tests.support.statements import start_recording

# Plain and without colours; what a test prints is shown when it fails.
structlog.configure(
    processors=[structlog.processors.format_exc_info, structlog.processors.JSONRenderer(default=str)],
    logger_factory=structlog.PrintLoggerFactory(),
    cache_logger_on_first_use=False,
)

start_recording()

hypothesis_settings.register_profile("default", deadline=None, max_examples=100)
hypothesis_settings.load_profile("default")


@pytest.fixture(autouse=True)
def no_blocking_calls() -> Iterator[BlockBuster]:
    """A blocking call of ours inside the event loop fails the test."""
    with blockbuster_ctx("iotplatform") as found:
        allow_known(found)
        yield found


@pytest.fixture(scope="session")
async def servers(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[ServerUrls]:
    """Real nats-server, PostgreSQL and Redis."""
    with DataDirectory.open(tmp_path_factory.mktemp("servers")) as directory:
        embedded = EmbeddedServers(directory, EmbeddedSettings(nats_port=0, nats_monitor_port=0))
        urls = await embedded.start()
        keeper = asyncio.get_running_loop().create_task(embedded.run())
        try:
            yield urls
        finally:
            keeper.cancel()
            await embedded.stop()


@pytest.fixture(scope="session")
async def database_url(servers: ServerUrls) -> str:
    """A migrated database, shared: tests make organizations of their own in it."""
    assert servers.postgres is not None
    connection = await asyncpg.connect(servers.postgres)
    try:
        await connection.execute("CREATE DATABASE shared")
    finally:
        await connection.close()
    url = servers.postgres.replace("@/iotplatform?", "@/shared?")
    await migrate(url)
    return url


@pytest.fixture(scope="module")
async def own_database_url(database_url: str) -> AsyncIterator[str]:
    """A migrated database that the tests of one module have for themselves."""
    name = f"own_{uuid.uuid4().hex}"
    admin = await asyncpg.connect(database_url)
    await admin.execute(f"CREATE DATABASE {name} TEMPLATE template0")
    url = urlsplit(database_url)._replace(path=f"/{name}").geturl()
    await migrate(url)
    yield url
    await admin.execute(f"DROP DATABASE {name} WITH (FORCE)")
    await admin.close()


@pytest.fixture(scope="session")
def repository() -> Path:
    return Path(__file__).parent.parent

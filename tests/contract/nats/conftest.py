"""A connection to the session's nats-server, and a server of one's own for what kills it."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import signal
import uuid

import psutil
import pytest

from iotplatform.adapters.embedded import DataDirectory, EmbeddedServers, EmbeddedSettings
from iotplatform.adapters.embedded.server import Timing
from iotplatform.adapters.nats.api import JetStreamApi
from iotplatform.adapters.nats.connection import Connection
from iotplatform.adapters.nats.publisher import Publisher
from iotplatform.adapters.nats.streams import StreamLimits, Streams
from iotplatform.adapters.nats.subjects import readings_subject
from iotplatform.domain.organization import Organization
from iotplatform.observability.metrics import Metrics
from iotplatform.runtime.tasks import Tasks

LIMITS = StreamLimits(
    organization_max_bytes=64 << 20, notifications_max_bytes=64 << 20, dead_letters_max_bytes=64 << 20
)
_epochs = itertools.count(1_000)


class Client:
    """A connection with all that stands on it."""

    def __init__(self, url):
        self.metrics = Metrics()
        self.connection = Connection(url, self.metrics)
        self.publisher = Publisher(self.connection)
        self.api = JetStreamApi(self.connection)
        self.streams = Streams(self.api, LIMITS)
        self.tasks = Tasks("test")

    async def organization(self, partitions=1):
        """A new one, with its stream."""
        made = new_organization(partitions)
        await self.streams.create_organization(made)
        return made

    async def fill(self, organization, count, *, partition=0, source="http", first=0):
        """Numbered messages in a partition; returns their sequences."""
        subject = readings_subject(organization.id, organization.epoch, partition, source)
        acks = []
        for start in range(first, first + count, 500):
            acks += await asyncio.gather(
                *(
                    self.publisher.publish(subject, b"%d" % number, {}, timeout_s=10)
                    for number in range(start, min(start + 500, first + count))
                )
            )
        return [ack.seq for ack in acks]

    async def stored(self, organization):
        """Every message of its stream."""
        stream = f"ORG_{organization.id}"
        last = (await self.api.call(f"STREAM.INFO.{stream}"))["state"]["last_seq"]
        found = [await self.api.get(stream, {"seq": sequence}) for sequence in range(1, last + 1)]
        return [message for message in found if message is not None]


def new_organization(partitions=1):
    return Organization(f"org-{uuid.uuid4().hex}", next(_epochs), "A Corp", partitions, 0)


@contextlib.asynccontextmanager
async def connected(url):
    client = Client(url)
    await client.publisher.start()
    client.tasks.start(client.connection.run(), "nats")
    try:
        assert await client.connection.wait_connected(10)
        yield client
    finally:
        await client.tasks.stop()


@pytest.fixture
def connect():
    """A client of a server that the test brings."""
    return connected


@pytest.fixture
async def client(servers):
    async with connected(servers.nats) as made:
        yield made


@pytest.fixture
async def organization(client):
    made = await client.organization()
    yield made
    await client.streams.delete_organization(made.id)


class OwnServer:
    """A nats-server that comes back only when it is told to."""

    def __init__(self, embedded, url):
        self.url = url
        self._embedded = embedded
        self._keeper = None

    @property
    def _status(self):
        return self._embedded.status()[0]

    def kill(self):
        os.kill(self._status.pid, signal.SIGKILL)

    def freeze(self):
        """Returns when all its threads stand still: the signal alone is only on its way."""
        os.kill(self._status.pid, signal.SIGSTOP)
        while psutil.Process(self._status.pid).status() != psutil.STATUS_STOPPED:
            pass

    def thaw(self):
        os.kill(self._status.pid, signal.SIGCONT)

    async def back(self):
        """Until it answers again, on the same port and with the same data."""
        if self._keeper is None:
            self._keeper = asyncio.get_running_loop().create_task(self._embedded.run())
        restarts = self._status.restarts
        async with asyncio.timeout(30):
            while self._status.restarts == restarts or not self._status.healthy:  # noqa: ASYNC110 - another process
                await asyncio.sleep(0.01)
        # Nothing else restarts it until the next kill.
        self._keeper.cancel()
        await asyncio.wait([self._keeper])
        self._keeper = None


@pytest.fixture(scope="module")
async def own_server(tmp_path_factory):
    with DataDirectory.open(tmp_path_factory.mktemp("nats")) as directory:
        embedded = EmbeddedServers(
            directory,
            EmbeddedSettings(nats_port=0, nats_monitor_port=0),
            postgres=False,
            redis=False,
            timing=Timing(first_backoff_s=0.02, most_backoff_s=0.02),
        )
        urls = await embedded.start()
        try:
            yield OwnServer(embedded, urls.nats)
        finally:
            await embedded.stop()


@pytest.fixture
async def own_client(own_server):
    """A client of the server that the test may kill."""
    async with connected(own_server.url) as made:
        yield made

"""A connection that heals, whatever happened to it."""

from __future__ import annotations

import asyncio
import contextlib
import json

import pytest

from iotplatform.adapters.embedded.programs import find_nats_server
from iotplatform.adapters.nats import connection as connection_module
from iotplatform.adapters.nats.connection import Connection, servers_of
from iotplatform.errors import Unavailable
from iotplatform.observability.metrics import Metrics
from iotplatform.runtime.tasks import Tasks


class Events:
    """What a connection tells, to be awaited."""

    def __init__(self, connection):
        self.lost, self.connected = asyncio.Event(), asyncio.Event()
        connection.on_lost(self.lost.set)
        connection.on_connected(self.connected.set)

    async def wait_lost(self):
        async with asyncio.timeout(10):
            await self.lost.wait()
        self.lost.clear()

    async def wait_connected(self):
        async with asyncio.timeout(10):
            await self.connected.wait()
        self.connected.clear()


@pytest.fixture
def inbox():
    """A callback, and what it was called with."""
    received = asyncio.Queue()

    async def callback(message):
        received.put_nowait(message.data)

    received.callback = callback
    return received


async def echo(connection, subject, inbox):
    """Says something to a subscription and hears it."""
    await connection.publish(subject, b"hello")
    async with asyncio.timeout(5):
        assert await inbox.get() == b"hello"


async def test_heals_after_the_server_was_killed(own_server, own_client, inbox):
    connection, events = own_client.connection, Events(own_client.connection)
    await connection.subscribe("there", inbox.callback)
    await echo(connection, "there", inbox)
    for _ in range(2):
        own_server.kill()
        await events.wait_lost()
        assert not connection.is_connected
        with pytest.raises(Unavailable) as caught:
            await connection.publish("there", b"lost")
        assert not caught.value.outcome_unknown
        with pytest.raises(Unavailable):
            await connection.request("there")
        with pytest.raises(Unavailable):
            await connection.request_many("there", b"", is_last=lambda _: True)
        assert not await connection.wait_connected(0.01)
        await own_server.back()
        await events.wait_connected()
        assert connection.is_connected
        await echo(connection, "there", inbox)
    assert own_client.metrics.nats_connections.total == 3
    assert inbox.empty()


async def test_an_answer_that_never_comes_because_the_server_died(own_server, own_client, inbox):
    connection, events = own_client.connection, Events(own_client.connection)
    # Somebody listens and does not answer.
    await connection.subscribe("silent", inbox.callback)
    waiting = [
        asyncio.get_running_loop().create_task(connection.request("silent", timeout_s=30)),
        asyncio.get_running_loop().create_task(
            connection.request_many("silent", b"", is_last=lambda _: True, timeout_s=30)
        ),
    ]
    for _ in waiting:
        await inbox.get()
    own_server.kill()
    await events.wait_lost()
    async with asyncio.timeout(5):
        found = await asyncio.gather(*waiting, return_exceptions=True)
    assert [type(error) for error in found] == [Unavailable, Unavailable]
    await own_server.back()
    await events.wait_connected()


async def test_a_frozen_server_is_noticed(own_server, own_client, monkeypatch):
    monkeypatch.setattr(connection_module, "PING_EVERY_S", 0.1)
    monkeypatch.setattr(connection_module, "PING_TIMEOUT_S", 1.0)
    events = Events(own_client.connection)
    # The watch of this connection began with longer times.
    own_server.kill()
    await events.wait_lost()
    await own_server.back()
    await events.wait_connected()
    own_server.freeze()
    await events.wait_lost()
    own_server.thaw()
    await events.wait_connected()


async def test_a_client_that_has_died_inside_is_replaced(own_server, own_client, inbox, monkeypatch):
    """nats-py's read loop can end by an exception and leave a connected zombie, for which even `flush` succeeds."""
    monkeypatch.setattr(connection_module, "PING_EVERY_S", 0.1)
    monkeypatch.setattr(connection_module, "PING_TIMEOUT_S", 1.0)
    connection, events = own_client.connection, Events(own_client.connection)
    await connection.subscribe("there", inbox.callback)
    own_server.kill()
    await events.wait_lost()
    await own_server.back()
    await events.wait_connected()
    connection._client._reading_task.cancel()
    await events.wait_lost()
    await events.wait_connected()
    await echo(connection, "there", inbox)


async def test_a_subscription_made_while_connecting_is_in_place(servers, inbox, monkeypatch):
    """Whenever it comes: before, after or in the middle."""
    connection = Connection(servers.nats, Metrics())
    subscribed = []

    async def subscribe_late(client, subject, queue, callback):
        await unpatched(client, subject, queue, callback)
        if not subscribed:
            subscribed.append(1)
            # The connection is just being made; its own subscriptions are already on their way.
            late.append(asyncio.get_running_loop().create_task(make_late()))

    async def make_late():
        await in_the_middle.wait()
        await connection.subscribe("late", inbox.callback)

    late, in_the_middle = [], asyncio.Event()
    unpatched = connection_module._subscribe
    monkeypatch.setattr(connection_module, "_subscribe", subscribe_late)
    flush = connection_module.Client.flush

    async def flush_slowly(client, **options):
        in_the_middle.set()
        await asyncio.wait(late)
        await flush(client, **options)

    monkeypatch.setattr(connection_module.Client, "flush", flush_slowly)
    await connection.subscribe("early", inbox.callback)
    tasks = Tasks("test")
    tasks.start(connection.run(), "nats")
    assert await connection.wait_connected(10)
    for subject in ("early", "late"):
        await echo(connection, subject, inbox)
    assert inbox.empty()
    await tasks.stop()


async def test_a_wrong_password_is_tried_again_and_no_crash(servers):
    connection = Connection(servers.nats.replace("platform:", "platform:wrong"), Metrics())
    tasks = Tasks("test")
    tasks.start(connection.run(), "nats")
    assert not await connection.wait_connected(0.5)
    await tasks.stop()


async def test_what_a_server_takes_is_known_as_soon_as_it_is_connected(tmp_path, connect):
    """A server of somebody else's has another max_payload than ours; this one has the default of 1 MiB."""
    process = await asyncio.create_subprocess_exec(
        await asyncio.to_thread(find_nats_server),
        *("--addr", "127.0.0.1", "--port", "-1", "--ports_file_dir", tmp_path, "--log", tmp_path / "log"),
    )
    try:
        async with asyncio.timeout(10):
            while not (ports := [file.read_text() for file in tmp_path.glob("*.ports")]) or not ports[0]:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
        (url,) = json.loads(ports[0])["nats"]
        async with connect(url) as client:
            assert client.connection.max_payload == 1 << 20
            assert (1 << 20) - (20 << 10) < client.publisher.max_bytes < 1 << 20
    finally:
        process.terminate()
        await process.wait()


class TestRequests:
    async def test_nobody_there(self, client):
        with pytest.raises(Unavailable, match="nobody answers") as caught:
            await client.connection.request("nobody.there")
        assert not caught.value.outcome_unknown

    async def test_no_answer_in_time(self, client, inbox):
        await client.connection.subscribe("silent.request", inbox.callback)
        with pytest.raises(Unavailable) as caught:
            await client.connection.request("silent.request", timeout_s=0.05)
        assert caught.value.outcome_unknown

    async def test_one_answer(self, client):
        async def answer(message):
            await client.connection.publish(message.reply, message.data.upper(), headers={"A": "b"})

        await client.connection.subscribe("upper", answer)
        found = await client.connection.request("upper", b"abc")
        assert (found.data, found.headers) == (b"ABC", {"A": "b"})

    async def test_cancelled_by_the_caller_is_cancelled(self, client, inbox):
        await client.connection.subscribe("silent.cancel", inbox.callback)
        task = asyncio.get_running_loop().create_task(client.connection.request("silent.cancel"))
        await inbox.get()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task


class TestManyAnswers:
    @pytest.fixture
    async def counting(self, client):
        async def count(message):
            for number in range(int(message.data)):
                await client.connection.publish(message.reply, b"%d" % number)

        await client.connection.subscribe("count", count)

    async def test_up_to_and_including_the_last(self, client, counting):
        found = await client.connection.request_many("count", b"2000", is_last=lambda message: message.data == b"1999")
        assert [int(message.data) for message in found] == list(range(2_000))

    async def test_without_the_last_in_time(self, client, counting):
        with pytest.raises(Unavailable):
            await client.connection.request_many("count", b"3", is_last=lambda _: False, timeout_s=0.05)

    async def test_side_by_side(self, client, counting):
        async def ask(size):
            last = b"%d" % (size - 1)
            return await client.connection.request_many(
                "count", b"%d" % size, is_last=lambda message: message.data == last
            )

        found = await asyncio.gather(*(ask(size) for size in range(1, 30)))
        assert [len(answers) for answers in found] == list(range(1, 30))

    async def test_nobody_there_is_told_by_a_status(self, client):
        (found,) = await client.connection.request_many("nobody.there", b"", is_last=lambda _: True)
        assert found.headers["Status"] == "503"


@pytest.mark.parametrize(
    ("url", "servers"),
    [
        ("nats://a:4222", ["nats://a:4222"]),
        ("nats://a:4222,b:4222", ["nats://a:4222", "nats://b:4222"]),
        ("nats://user:p@ss@a:4222,b", ["nats://user:p@ss@a:4222", "nats://user:p@ss@b"]),
        ("tls://user:pass@[::1]:4222,b:1", ["tls://user:pass@[::1]:4222", "tls://user:pass@b:1"]),
        ("a:4222", ["nats://a:4222"]),
    ],
)
def test_several_servers_in_a_url(url, servers):
    assert servers_of(url) == servers


async def test_a_cancellation_that_the_library_swallows_ends_the_caller(client, monkeypatch):
    """nats-py does so while it waits for its flusher. A role that went on would hold up the end of its process."""
    waiting = asyncio.Event()

    async def swallow(*_, **__):
        waiting.set()
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.Event().wait()

    with monkeypatch.context() as patched:
        patched.setattr(client.connection._client, "publish", swallow)
        publishing = asyncio.get_running_loop().create_task(client.connection.publish("x", b""))
        async with asyncio.timeout(10):
            await waiting.wait()
            publishing.cancel()
            await asyncio.wait([publishing])
    assert publishing.cancelled()

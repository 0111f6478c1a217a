"""Publishing: every message gets its own answer, whatever becomes of the server."""

from __future__ import annotations

import asyncio

import pytest

from iotplatform.adapters.nats.publisher import Ack, PublishRefused, StreamFull
from iotplatform.errors import Unavailable

TIMEOUT_S = 10.0


@pytest.fixture
def publish(client, organization):
    async def do(payload=b"x", subject=None, timeout_s=TIMEOUT_S, **headers):
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        return await client.publisher.publish(subject or subject_of(organization), payload, named, timeout_s=timeout_s)

    return do


def subject_of(organization):
    return f"readings.{organization.id}.{organization.epoch}.0.http"


async def limited(client, organization, **changes):
    """Narrow the organization's stream."""
    stream = f"ORG_{organization.id}"
    config = (await client.api.call(f"STREAM.INFO.{stream}"))["config"]
    await client.api.call(f"STREAM.UPDATE.{stream}", config | changes)


async def test_an_acknowledgement_says_where_it_is_stored(client, organization, publish):
    first = await publish(b"one", A="b")
    second = await publish(b"two")
    assert (first.stream, first.seq, first.duplicate) == (f"ORG_{organization.id}", 1, False)
    assert second.seq == 2
    stored = await client.api.get(first.stream, {"seq": 1})
    assert (stored.data, stored.subject, stored.headers["A"]) == (b"one", subject_of(organization), "b")


async def test_everyone_gets_the_answer_to_his_own(client, organization, publish):
    acks = await asyncio.gather(*(publish(b"%d" % number) for number in range(500)))
    assert sorted(ack.seq for ack in acks) == list(range(1, 501))
    for number in (0, 17, 499):
        stored = await client.api.get(f"ORG_{organization.id}", {"seq": acks[number].seq})
        assert stored.data == b"%d" % number
    assert client.publisher._waiting == {}


async def test_the_same_message_again_is_a_duplicate(client, organization, publish):
    first = await publish(b"one", Nats_Msg_Id="lane.1")
    await publish(b"two", Nats_Msg_Id="lane.2")
    again = await publish(b"one", Nats_Msg_Id="lane.1")
    assert (again.seq, again.duplicate) == (first.seq, True)
    assert len(await client.stored(organization)) == 2


async def test_a_subject_that_no_stream_takes(publish):
    with pytest.raises(Unavailable, match="no stream") as caught:
        await publish(subject="nowhere.at.all")
    assert not caught.value.outcome_unknown


@pytest.mark.parametrize("limit", [{"max_bytes": 3_000}, {"max_msgs": 3}])
async def test_a_full_stream_takes_nothing_more(client, organization, publish, limit):
    await limited(client, organization, **limit)
    found = await asyncio.gather(*(publish(b"x" * 500) for _ in range(10)), return_exceptions=True)
    stored = len(await client.stored(organization))
    assert 0 < stored < 10
    assert [type(result) for result in found] == [Ack] * stored + [StreamFull] * (10 - stored)
    with pytest.raises(StreamFull):
        await publish(b"x" * 500)
    await limited(client, organization, max_bytes=1 << 20, max_msgs=-1)
    assert (await publish(b"x" * 500)).seq == stored + 1


async def test_what_the_stream_does_not_want_is_refused(client, organization, publish):
    await publish()
    with pytest.raises(PublishRefused) as caught:
        await publish(Nats_Expected_Last_Subject_Sequence="7")
    assert caught.value.code == 10071
    with pytest.raises(PublishRefused):
        await publish(Nats_Expected_Stream="ANOTHER")
    await limited(client, organization, max_msg_size=100)
    with pytest.raises(PublishRefused):
        await publish(b"x" * 500)
    assert len(await client.stored(organization)) == 1


async def test_what_is_larger_than_the_server_takes_is_refused_and_harms_nobody(client, organization, publish):
    """The server would cut the connection, and with it everything that is under way on it."""
    connections = client.metrics.nats_connections.total
    other = asyncio.gather(*(publish(b"%d" % number) for number in range(50)))
    for size in ((8 << 20) - 100, 8 << 20, 9 << 20):
        with pytest.raises(PublishRefused, match="max_payload"):
            await publish(bytes(size), Nats_Msg_Id="x" * 100)
    await other
    await publish(bytes(client.publisher.max_bytes), Nats_Msg_Id="x" * 10_000)
    assert client.metrics.nats_connections.total == connections


async def test_headers_come_through_as_they_are(client, organization, publish):
    await publish(b"", Number="5", Text="a: b; c", Empty="")
    stored = await client.api.get(f"ORG_{organization.id}", {"seq": 1})
    assert (stored.headers["Number"], stored.headers["Text"], stored.data) == ("5", "a: b; c", b"")


async def turns(count=5):
    """Lets everything run that can."""
    for _ in range(count):
        await asyncio.sleep(0)


class TestWithoutTheServer:
    @pytest.fixture
    async def there(self, own_client):
        made = await own_client.organization()
        lost, back = asyncio.Event(), asyncio.Event()
        own_client.connection.on_lost(lost.set)
        own_client.connection.on_connected(back.set)

        def publish(timeout_s=30.0, payload=b"x", message_id=""):
            headers = {"Nats-Msg-Id": message_id} if message_id else {}
            return own_client.publisher.publish(subject_of(made), payload, headers, timeout_s=timeout_s)

        publish.organization, publish.lost, publish.back = made, lost, back
        await publish()
        return publish

    async def test_everything_that_is_under_way_fails_at_once_when_the_server_dies(self, own_server, own_client, there):
        own_server.freeze()
        loop = asyncio.get_running_loop()
        waiting = [loop.create_task(there()) for _ in range(200)]
        await turns()
        assert len(own_client.publisher._waiting) == 200
        own_server.kill()
        async with asyncio.timeout(5):
            found = await asyncio.gather(*waiting, return_exceptions=True)
        assert {type(error) for error in found} == {Unavailable}
        assert all(error.outcome_unknown for error in found)
        assert own_client.publisher._waiting == {}
        with pytest.raises(Unavailable) as caught:
            await there()
        assert not caught.value.outcome_unknown
        await own_server.back()
        async with asyncio.timeout(10):
            await there.back.wait()
        assert (await there()).seq >= 2

    async def test_no_answer_in_time_and_the_same_again_later(self, own_server, own_client, there):
        own_server.freeze()
        with pytest.raises(Unavailable) as caught:
            await there(timeout_s=0.05, message_id="lane.1")
        assert caught.value.outcome_unknown
        own_server.thaw()
        ack = await there(message_id="lane.1")
        # The first one has arrived after all, and its late answer was nobody's.
        assert ack.duplicate
        assert len(await own_client.stored(there.organization)) == 2

    async def test_waiting_to_try_again_ends_with_the_connection(self, own_server, own_client, there):
        there.back.clear()
        own_server.kill()
        async with asyncio.timeout(5):
            await there.lost.wait()
        waiting = asyncio.get_running_loop().create_task(own_client.publisher.wait_to_retry(0.0))
        await own_server.back()
        async with asyncio.timeout(5):
            await there.back.wait()
            await waiting

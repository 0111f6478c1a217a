"""What JetStream holds, as it is shown to operators."""

from __future__ import annotations

import pytest

from iotplatform.adapters.nats.jetstream_state import JetStreamWatch


class Pages:
    """The API, with pages of two streams."""

    def __init__(self, api):
        self._api = api
        self.lists = 0

    async def call(self, operation, body=None, **options):
        answer = await self._api.call(operation, body, **options)
        if operation == "STREAM.LIST":
            self.lists += 1
            answer["streams"] = (answer.get("streams") or [])[:2]
        return answer


@pytest.fixture
async def watch(client):
    await client.streams.create_shared()
    made = JetStreamWatch(client.connection)
    made._api = Pages(made._api)
    return made


async def rounds(watch):
    """Looks until every organization was seen."""
    state = await watch.look()
    while watch._offset:
        state = await watch.look()
    return state


async def test_streams_with_what_they_hold_and_may_hold(client, watch):
    first, second = [await client.organization() for _ in range(2)]
    await client.fill(first, 10)
    state = await rounds(watch)
    assert state.streams["notifications"].limit == 64 << 20
    assert state.streams["intake"].limit is None
    assert "dead_letters" in state.streams
    assert state.streams["organizations"].messages >= 10
    assert 0 < state.fill_ratios[first.id] < 0.001
    assert state.fill_ratios[second.id] == 0
    assert state.stream_count >= 5
    assert state.consumer_count >= 6
    assert state.storage > 0


async def test_letters_that_are_no_more_once_every_stream_was_seen(client, watch):
    organization = await client.organization()
    await client.streams.create_letters(organization.id)
    for number in range(3):
        await client.publisher.publish(
            f"letters.{organization.id}.1.ingest", b"x", {"Nats-Msg-Id": f"n{number}"}, timeout_s=5
        )
    await client.api.call(f"STREAM.PURGE.LETTERS_{organization.id}", {"keep": 1})
    assert (await watch.look()).removed_letters is None
    assert (await rounds(watch)).removed_letters[organization.id] == 2
    await client.streams.delete_organization(organization.id)


async def test_a_look_is_one_page_whatever_there_is(client, watch):
    made = [await client.organization() for _ in range(5)]
    for _ in range(3):
        before = watch._api.lists
        await watch.look()
        assert watch._api.lists == before + 1
    await rounds(watch)
    assert {organization.id for organization in made} <= (await rounds(watch)).fill_ratios.keys()


async def test_what_was_deleted_is_forgotten_after_a_round(client, watch):
    organization = await client.organization()
    assert organization.id in (await rounds(watch)).fill_ratios
    await client.streams.delete_organization(organization.id)
    await rounds(watch)
    assert organization.id not in (await rounds(watch)).fill_ratios

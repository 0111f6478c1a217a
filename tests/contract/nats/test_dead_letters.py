"""Dead letters: stored before the position moves, and found again."""

from __future__ import annotations

import asyncio
import base64

import msgspec
import pytest

from iotplatform.adapters.nats import dead_letters
from iotplatform.adapters.nats.api import ApiError
from iotplatform.adapters.nats.dead_letters import DeadLetters, find_letter
from iotplatform.adapters.nats.removal import EpochRemover
from iotplatform.adapters.nats.streams import Streams
from iotplatform.domain.dead_letter import DeadLetter, LetterFilter, encode_payload
from iotplatform.domain.removal import Removal
from tests.contract.nats.conftest import LIMITS


def letter(letter_id="persistence-0-1", **changes):
    values = {
        "id": letter_id,
        "role": "persistence",
        "reason": "undecodable",
        "detail": "not a block",
        "device_id": None,
        "received_at": 1_700_000_000_000_000,
        "readings": 3,
        "payload": encode_payload(b"\xff\x00"),
        "encoding": "base64",
    }
    return DeadLetter(**(values | changes))


@pytest.fixture
async def letters(client):
    await client.streams.create_shared()
    return DeadLetters(client.connection, client.publisher, client.streams)


@pytest.fixture
def putter():
    def into(letters, organization):
        async def do(some, role="persistence"):
            await letters.put(organization.id, organization.epoch, role, some)

        return do

    return into


@pytest.fixture
def put(putter, letters, organization):
    return putter(letters, organization)


async def everything(letters, organization, limit=100, **wanted):
    page = await letters.page(organization, limit, 0, LetterFilter(**wanted))
    return [placed.letter for placed in page.letters]


async def test_what_was_put_is_found(letters, put, organization):
    some = letter(device_id="machine-123", detail="für den Menschen")
    await put(some)
    assert await everything(letters, organization) == [some]


async def test_in_the_order_of_their_arrival_whoever_wrote_them(letters, put, organization):
    written = [letter(f"a-{number}") for number in range(6)]
    for number, some in enumerate(written):
        await put(some, ("persistence", "ingest")[number % 2])
    assert await everything(letters, organization) == written


async def test_page_by_page(letters, put, organization):
    for number in range(5):
        await put(letter(f"a-{number}"))
    assert await pages_of(letters, organization, 2) == [["a-0", "a-1"], ["a-2", "a-3"], ["a-4"]]
    assert await pages_of(letters, organization, 5) == [["a-0", "a-1", "a-2", "a-3", "a-4"]]


async def test_filters(letters, put, organization):
    await put(letter("a", device_id="one", received_at=10))
    await put(letter("b", device_id="two", received_at=20, reason="unstorable"))
    await put(letter("c", role="notification", device_id="two", received_at=30), "notification")
    await put(letter("d", received_at=40))

    async def ids(**wanted):
        return "".join(found.id for found in await everything(letters, organization, **wanted))

    assert await ids() == "abcd"
    assert await ids(role="persistence") == "abd"
    assert await ids(role="nobody") == ""
    assert await ids(reason="unstorable") == "b"
    assert await ids(device_ids=("two",)) == "bc"
    assert await ids(device_ids=("one", "two"), role="persistence") == "ab"
    assert await ids(since=20) == "bcd"
    assert await ids(until=40) == "abc"
    assert await ids(since=20, until=40, reason="undecodable") == "c"


async def test_pages_of_what_a_filter_leaves(letters, put, organization):
    for number in range(9):
        await put(letter(f"a-{number}", reason="unstorable" if number % 4 == 0 else "undecodable"))
    wanted = LetterFilter(reason="unstorable")
    assert await pages_of(letters, organization, 2, wanted) == [["a-0", "a-4"], ["a-8"]]
    assert await pages_of(letters, organization, 1, wanted) == [["a-0"], ["a-4"], ["a-8"]]


async def test_a_page_is_bounded_in_what_it_reads_and_keeps(letters, put, organization, monkeypatch):
    """However large the letters are, and however few of them are wanted."""
    monkeypatch.setattr(dead_letters, "BATCH_BYTES", 20_000)
    monkeypatch.setattr(dead_letters, "PAGE_BYTES", 50_000)
    monkeypatch.setattr(dead_letters, "READ_BYTES", 60_000)
    for number in range(20):
        await put(letter(f"a-{number}", payload="x" * 10_000))
    found = await pages_of(letters, organization, 1_000)
    assert [found_id for page in found for found_id in page] == [f"a-{number}" for number in range(20)]
    assert max(len(page) for page in found) <= 8
    await put(letter("wanted", reason="unstorable"))
    found = await pages_of(letters, organization, 1_000, LetterFilter(reason="unstorable"))
    assert [found_id for page in found for found_id in page] == ["wanted"]
    assert len(found) > 1


async def pages_of(letters, organization, limit, wanted=LetterFilter()):  # noqa: B008 - frozen
    pages, after = [], 0
    while after is not None:
        page = await letters.page(organization, limit, after, wanted)
        pages.append([placed.letter.id for placed in page.letters])
        after = page.next_after
    return pages


async def test_put_again_it_is_one(letters, put, organization):
    for _ in range(3):
        await put(letter())
    await put(letter("another"))
    assert len(await everything(letters, organization)) == 2


async def test_none(letters, organization):
    assert await pages_of(letters, organization, 100) == [[]]


async def test_organizations_do_not_see_each_others(client, letters, put, organization):
    other = await client.organization()
    await put(letter("mine"))
    # The same id in another organization is another letter.
    await letters.put(other.id, other.epoch, "persistence", letter("mine", detail="theirs"))
    assert [found.detail for found in await everything(letters, organization)] == ["not a block"]
    assert [found.detail for found in await everything(letters, other)] == ["theirs"]
    await client.streams.delete_organization(other.id)


async def test_a_flood_of_one_organization_leaves_what_another_has(client, putter, organization):
    """Each has its share, and evicts its own oldest when that is full."""
    small = msgspec.structs.replace(LIMITS, dead_letters_max_bytes=1 << 20)
    letters = DeadLetters(client.connection, client.publisher, Streams(client.api, small))
    other = await client.organization()
    await putter(letters, other)(letter("theirs"))
    for number in range(50):
        await putter(letters, organization)(letter(f"a-{number}", payload="x" * 100_000))
    kept = [found.id for found in await everything(letters, organization)]
    assert kept == [f"a-{number}" for number in range(50 - len(kept), 50)]
    assert 5 <= len(kept) <= 10
    assert await letters.removed(organization.id) == 50 - len(kept)
    assert await letters.removed(other.id) == 0
    assert [found.id for found in await everything(letters, other)] == ["theirs"]
    await client.streams.delete_organization(other.id)


async def test_who_has_no_letters_has_no_stream_for_them(client, letters, put, organization):
    """A thousand organizations without letters cost nothing."""
    name = f"LETTERS_{organization.id}"
    with pytest.raises(ApiError):
        await client.api.call(f"STREAM.INFO.{name}")
    await asyncio.gather(*(put(letter(f"a-{number}")) for number in range(10)))
    assert (await client.api.call(f"STREAM.INFO.{name}"))["state"]["messages"] == 10
    # Those that come while it is made keep their order.
    page = await letters.page(organization, 20, 0, LetterFilter())
    assert [placed.letter.id for placed in page.letters] == [f"a-{number}" for number in range(10)]
    await client.streams.delete_organization(organization.id)
    with pytest.raises(ApiError):
        await client.api.call(f"STREAM.INFO.{name}")


@pytest.fixture
async def shared(client):
    """The stream that earlier versions had for everybody's letters."""
    await client.api.call(
        "STREAM.CREATE.DEADLETTER", {"name": "DEADLETTER", "subjects": ["deadletter.>"], "allow_direct": True}
    )

    async def put(organization, *some):
        for each in some:
            subject = f"deadletter.{organization.id}.{organization.epoch}.{each.role}"
            await client.publisher.publish(subject, msgspec.json.encode(each), {}, timeout_s=5)

    yield put
    await client.api.call("STREAM.DELETE.DEADLETTER")


async def test_letters_of_earlier_versions_come_first(client, shared, letters, put, organization, monkeypatch):
    other = await client.organization()
    await shared(other, letter("theirs"))
    await shared(organization, *(letter(f"old-{number}") for number in range(4)))
    for number in range(3):
        await put(letter(f"new-{number}", reason="unstorable"))
    every = ["old-0", "old-1", "old-2", "old-3", "new-0", "new-1", "new-2"]
    for limit in range(1, 9):
        pages = await pages_of(letters, organization, limit)
        assert pages == [every[start : start + limit] for start in range(0, 7, limit)]
    monkeypatch.setattr(dead_letters, "BATCH_BYTES", 400)
    monkeypatch.setattr(dead_letters, "READ_BYTES", 500)
    for reason, wanted in (("unstorable", every[4:]), ("undecodable", every[:4])):
        pages = await pages_of(letters, organization, 100, LetterFilter(reason=reason))
        assert [found for page in pages for found in page] == wanted
    await letters.put(other.id, other.epoch, "persistence", letter("theirs too"))
    assert [found.id for found in await everything(letters, other)] == ["theirs", "theirs too"]
    await client.streams.delete_organization(other.id)


async def test_letters_of_earlier_versions_are_found_and_removed(client, shared, letters, put, organization):
    await shared(organization, letter("old"))
    await put(letter("new"))
    page = await letters.page(organization, 100, 0, LetterFilter())
    assert [placed.id for placed in page.letters] == ["old.1", "new.1"]
    for placed in page.letters:
        assert await find_letter(client.api, organization, placed.id) == placed
    assert await find_letter(client.api, organization, "other.1") is None
    await EpochRemover(client.connection).remove_messages(Removal(organization.id, organization.epoch, 1))
    assert await everything(letters, organization) == []


async def test_many_at_once(letters, put, organization):
    for number in range(300):
        await put(letter(f"a-{number}"))
    assert [found.id for found in await everything(letters, organization, 1_000)] == [
        f"a-{number}" for number in range(300)
    ]


@pytest.mark.parametrize("size", [6 << 20, 7 << 20, 8 << 20])
async def test_a_letter_too_large_for_the_server_is_cut_and_says_so(letters, put, organization, size):
    """Base64 makes a large block larger than a message may be; not storing it would halt its partition for ever."""
    await put(letter("large", payload=encode_payload(b"x" * size)))
    (found,) = await everything(letters, organization)
    assert "cut" in found.detail
    assert found.detail.startswith("not a block")
    assert base64.b64decode(found.payload, validate=True).startswith(b"x" * 1_000_000)
    assert found.readings == 3


async def test_a_letter_of_json_too_large_for_the_server_is_cut_too(letters, put, organization):
    await put(letter("large", payload="\x01\x02" * (1 << 20), encoding="json"))
    (found,) = await everything(letters, organization)
    assert "cut" in found.detail
    assert found.payload.startswith("\x01\x02" * 10_000)


async def test_a_stream_that_exists_takes_the_size_that_the_settings_say_now(client, putter, organization):
    small = msgspec.structs.replace(LIMITS, dead_letters_max_bytes=1 << 20)
    await putter(DeadLetters(client.connection, client.publisher, client.streams), organization)(letter("a"))
    await Streams(client.api, small).resize_organization(organization.id, 2 << 20)

    async def size(name):
        return (await client.api.call(f"STREAM.INFO.{name}_{organization.id}"))["config"]["max_bytes"]

    assert (await size("LETTERS"), await size("ORG")) == (1 << 20, 2 << 20)
    await client.streams.resize_organization(organization.id, None)
    assert (await size("LETTERS"), await size("ORG")) == (LIMITS.dead_letters_max_bytes, LIMITS.organization_max_bytes)
    assert await everything(DeadLetters(client.connection, client.publisher, client.streams), organization)

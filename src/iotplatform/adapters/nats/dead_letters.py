"""Dead letters: what was accepted and can't be used, kept with its reason.

Each organization has a stream of its own for them, made with its first letter: when that is full, its own oldest goes.
The one stream that earlier versions had for all of them is read before it, for as long as it is there.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final, Literal

import msgspec
from nats.aio.msg import Msg

from iotplatform.adapters.nats import subjects
from iotplatform.adapters.nats.api import NOT_FOUND_STREAM, ApiError, JetStreamApi, StoredMessage
from iotplatform.adapters.nats.connection import Connection, NobodyThere
from iotplatform.adapters.nats.headers import MSG_ID
from iotplatform.adapters.nats.publisher import NoStream, Publisher, PublishRefused, StreamFull
from iotplatform.adapters.nats.streams import Streams
from iotplatform.domain.dead_letter import DeadLetter, LetterFilter
from iotplatform.domain.organization import Organization
from iotplatform.errors import Unavailable

PUBLISH_TIMEOUT_S: Final = 5.0
BATCH_LETTERS: Final = 500
BATCH_BYTES: Final = 8 << 20
# After so many bytes of letters a page ends, and after so many that were only looked at.
PAGE_BYTES: Final = 16 << 20
READ_BYTES: Final = 256 << 20
# Details quote what strangers have sent.
MAX_DETAIL: Final = 2_000
JUST_MADE_S: Final = 0.2
_MAX_PLACE: Final = 1 << 63
_NOBODY: Final = "503"


class PlacedLetter(msgspec.Struct, frozen=True):
    """A letter and its sequence in its stream, which the id that people see names, so that it is found at once."""

    place: int
    letter: DeadLetter
    stream: str = ""

    @property
    def id(self) -> str:
        return f"{self.letter.id}.{self.place}"

    @staticmethod
    def place_of(letter_id: str) -> int | None:
        """None when this can't be the id of a letter."""
        digits = letter_id.rpartition(".")[2]
        if not (digits.isascii() and digits.isdigit()) or len(digits) > 19:
            return None
        return int(digits) if 0 < int(digits) < _MAX_PLACE else None


class LetterPage(msgspec.Struct, frozen=True):
    """`next_after` is the place after which the next page begins, None when there is none; below 0 in the stream of
    earlier versions.
    """

    letters: list[PlacedLetter]
    next_after: int | None


class _Making:
    def __init__(self) -> None:
        self.lock = asyncio.Lock()
        self.waiting = 0


class DeadLetters:
    def __init__(self, connection: Connection, publisher: Publisher, streams: Streams) -> None:
        self._api = JetStreamApi(connection)
        self._publisher = publisher
        self._streams = streams
        # By organization, while their streams are being made.
        self._making: dict[str, _Making] = {}

    async def put(
        self, organization_id: str, epoch: int, role: str, letter: DeadLetter, *, headers: dict[str, str] | None = None
    ) -> None:
        """Returns when the letter is stored. The same letter put again within the dedup window changes nothing.

        Raises:
            Unavailable: try again; the position must not move before.
        """
        subject = subjects.letter_subject(organization_id, epoch, role)
        headers = {**(headers or {}), MSG_ID: f"{epoch}.{letter.id}"}
        encoded = _encode(letter, self._publisher.max_bytes)

        async def publish() -> None:
            await self._publisher.publish(subject, encoded, headers, timeout_s=PUBLISH_TIMEOUT_S)

        try:
            if organization_id not in self._making:
                try:
                    return await publish()
                except NoStream:
                    pass
            await self._make_and_publish(organization_id, publish)
        except (StreamFull, PublishRefused, ApiError) as error:
            raise Unavailable(f"{subjects.letters_stream(organization_id)}: {error}", retry_after_s=5) from error

    async def _make_and_publish(self, organization_id: str, publish: Callable[[], Awaitable[None]]) -> None:
        """One after the other, in the order in which they came, until nobody waits for the stream any more."""
        making = self._making.setdefault(organization_id, _Making())
        making.waiting += 1
        try:
            async with making.lock:
                try:
                    await publish()
                except NoStream:
                    await self._streams.create_letters(organization_id)
                    await publish()
        finally:
            making.waiting -= 1
            if not making.waiting:
                del self._making[organization_id]

    async def page(self, organization: Organization, limit: int, after: int, wanted: LetterFilter) -> LetterPage:
        """Up to `limit` letters in the order of their arrival; `after` is the place to go on from.

        A page may end early, to be bounded in what is read and kept for it.

        Raises:
            Unavailable: JetStream is away.
        """
        older, own = subjects.letter_places(organization.id, organization.epoch, wanted.role or "*")
        pile = _Pile(limit, wanted)
        is_full = after <= 0 and await self._gather(*older, after, pile, -1)
        is_full = is_full or await self._gather(*own, max(0, after), pile, 1)
        return LetterPage(pile.found, pile.next_after if is_full else None)

    async def removed(self, organization_id: str) -> int:
        """How many letters were in the organization's stream and are no more, whatever has taken them away.

        Raises:
            Unavailable: JetStream is away.
        """
        try:
            answer = await self._api.call(f"STREAM.INFO.{subjects.letters_stream(organization_id)}")
        except ApiError as error:
            if error.code == NOT_FOUND_STREAM:
                return 0
            raise
        return removed_from(answer["state"])

    async def _gather(self, stream: str, subject: str, after: int, pile: _Pile, sign: Literal[-1, 1]) -> bool:
        """Whether the page ends before the stream does."""
        while True:
            messages, more = await self._batch(stream, subject, sign * after, pile.room)
            for message in messages:
                place = int((message.headers or {})["Nats-Sequence"])
                after = sign * place
                letter = msgspec.json.decode(message.data, type=DeadLetter)
                if not pile.take(after, len(message.data), PlacedLetter(place, letter, stream)):
                    return True
            if not more:
                return False
            if pile.is_heavy:
                pile.next_after = after
                return True

    async def _batch(self, stream: str, subject: str, after: int, letters: int) -> tuple[list[Msg], bool]:
        """Messages above `after`, and whether there are more behind them."""
        query: dict[str, int | str] = {
            "seq": after + 1,
            "batch": letters,
            "max_bytes": BATCH_BYTES,
            "next_by_subj": subject,
        }
        messages, headers = await self._api.get_batch(stream, query)
        if headers.get("Status") == _NOBODY:
            try:
                await _require_none(self._api, stream)
            except Unavailable:
                # It may just have been made, and answers in a moment.
                await asyncio.sleep(JUST_MADE_S)
                messages, headers = await self._api.get_batch(stream, query)
                if headers.get("Status") == _NOBODY:
                    raise
        return messages, bool(messages) and int(headers.get("Nats-Num-Pending", "0")) > 0


class _Pile:
    """The letters of a page as it is gathered. `next_after` is behind the last of them."""

    def __init__(self, limit: int, wanted: LetterFilter) -> None:
        self.found: list[PlacedLetter] = []
        self.next_after = 0
        self._limit = limit
        self._wanted = wanted
        self._takes_all = wanted == LetterFilter(role=wanted.role)
        self._kept = self._read = 0

    @property
    def room(self) -> int:
        """How many to read at once: one more than fits, to know whether there is one."""
        return min(BATCH_LETTERS, self._limit + 1 - len(self.found)) if self._takes_all else BATCH_LETTERS

    @property
    def is_heavy(self) -> bool:
        return self._kept >= PAGE_BYTES or self._read >= READ_BYTES

    def take(self, after: int, size: int, placed: PlacedLetter) -> bool:
        """False when it is wanted and there is no room for it."""
        self._read += size
        if not self._wanted.matches(placed.letter):
            return True
        if len(self.found) == self._limit:
            return False
        self.found.append(placed)
        self.next_after = after
        self._kept += size
        return True


def removed_from(state: Mapping[str, Any]) -> int:
    """Of a stream's state: what it had, less what it has."""
    return int(state["last_seq"]) - int(state["messages"])


async def find_letter(api: JetStreamApi, organization: Organization, letter_id: str) -> PlacedLetter | None:
    """The letter that is shown under this id; None when the organization has none (any more).

    Raises:
        Unavailable: JetStream is away.
    """
    place = PlacedLetter.place_of(letter_id)
    if place is None:
        return None
    for stream, own in reversed(subjects.letter_places(organization.id, organization.epoch, "")):
        found = await _message(api, stream, place)
        if found is not None and found.subject.startswith(own):
            placed = PlacedLetter(place, msgspec.json.decode(found.data, type=DeadLetter), stream)
            if placed.id == letter_id:
                return placed
    return None


async def _message(api: JetStreamApi, stream: str, sequence: int) -> StoredMessage | None:
    try:
        return await api.get(stream, {"seq": sequence})
    except NobodyThere:
        await _require_none(api, stream)
        return None


async def _require_none(api: JetStreamApi, stream: str) -> None:
    """Raises:
    Unavailable: nobody answers for a stream although there is one.
    """
    try:
        await api.call(f"STREAM.INFO.{stream}")
    except ApiError as error:
        if error.code == NOT_FOUND_STREAM:
            return
        raise
    raise Unavailable(f"{stream} does not answer")


def _encode(letter: DeadLetter, max_bytes: int) -> bytes:
    """The letter; one that the server would not take loses the end of its payload rather than hold up a partition."""
    if len(letter.detail) > MAX_DETAIL:
        letter = msgspec.structs.replace(letter, detail=f"{letter.detail[:MAX_DETAIL]}…")
    encoded = msgspec.json.encode(letter)
    surplus = len(encoded) - max_bytes
    if surplus <= 0:
        return encoded
    detail = f"{letter.detail} (the payload was too large for a letter, and is cut off)"
    # What JSON has to escape takes up to six bytes a character; base64, in groups of four, takes one.
    kept = len(letter.payload) - surplus - len(detail) if letter.encoding == "base64" else max_bytes // 8
    return msgspec.json.encode(msgspec.structs.replace(letter, detail=detail, payload=letter.payload[: kept // 4 * 4]))

"""Dead letters: what was accepted and can't be used, kept with its reason."""

from __future__ import annotations

from typing import Final

import msgspec
from nats.aio.msg import Msg

from iotplatform.adapters.nats import subjects
from iotplatform.adapters.nats.api import JetStreamApi
from iotplatform.adapters.nats.connection import Connection
from iotplatform.adapters.nats.headers import MSG_ID
from iotplatform.adapters.nats.publisher import Publisher, PublishRefused, StreamFull
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
_MAX_PLACE: Final = 1 << 63


class PlacedLetter(msgspec.Struct, frozen=True):
    """A letter and its sequence in DEADLETTER, which the id that people see names, so that it is found at once."""

    place: int
    letter: DeadLetter

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
    """`next_after` is the place after which the next page begins, None when there is none."""

    letters: list[PlacedLetter]
    next_after: int | None


class DeadLetters:
    def __init__(self, connection: Connection, publisher: Publisher) -> None:
        self._connection = connection
        self._publisher = publisher

    async def put(
        self, organization_id: str, epoch: int, role: str, letter: DeadLetter, *, headers: dict[str, str] | None = None
    ) -> None:
        """Returns when the letter is stored. The same letter put again within the dedup window changes nothing.

        Raises:
            Unavailable: try again; the position must not move before.
        """
        subject = subjects.dead_letter_subject(organization_id, epoch, role)
        headers = {**(headers or {}), MSG_ID: f"{epoch}.{letter.id}"}
        encoded = _encode(letter, self._publisher.max_bytes)
        try:
            await self._publisher.publish(subject, encoded, headers, timeout_s=PUBLISH_TIMEOUT_S)
        except (StreamFull, PublishRefused) as error:
            raise Unavailable(f"{subjects.DEADLETTER}: {error}", retry_after_s=5) from error

    async def page(self, organization: Organization, limit: int, after: int, wanted: LetterFilter) -> LetterPage:
        """Up to `limit` letters in the order of their arrival; `after` is the place to go on from.

        A page may end early, to be bounded in what is read and kept for it.

        Raises:
            Unavailable: JetStream is away.
        """
        subject = subjects.dead_letter_subject(organization.id, organization.epoch, wanted.role or "*")
        takes_all = wanted == LetterFilter(role=wanted.role)
        found: list[PlacedLetter] = []
        kept = read = 0
        while True:
            batch = min(BATCH_LETTERS, limit + 1 - len(found)) if takes_all else BATCH_LETTERS
            messages, more = await self._batch(subject, after, batch)
            for message in messages:
                after = int((message.headers or {})["Nats-Sequence"])
                read += len(message.data)
                letter = msgspec.json.decode(message.data, type=DeadLetter)
                if not wanted.matches(letter):
                    continue
                if len(found) == limit:
                    return LetterPage(found, found[-1].place)
                found.append(PlacedLetter(after, letter))
                kept += len(message.data)
            if not more:
                return LetterPage(found, None)
            if kept >= PAGE_BYTES or read >= READ_BYTES:
                return LetterPage(found, after)

    async def _batch(self, subject: str, after: int, letters: int) -> tuple[list[Msg], bool]:
        """Messages above `after`, and whether there are more behind them."""
        query = {"seq": after + 1, "batch": letters, "max_bytes": BATCH_BYTES, "next_by_subj": subject}
        answers = await self._connection.request_many(
            f"$JS.API.DIRECT.GET.{subjects.DEADLETTER}", msgspec.json.encode(query), is_last=_is_status
        )
        *messages, last = answers
        return messages, bool(messages) and int((last.headers or {}).get("Nats-Num-Pending", "0")) > 0


async def find_letter(api: JetStreamApi, organization: Organization, letter_id: str) -> PlacedLetter | None:
    """The letter that is shown under this id; None when the organization has none (any more).

    Raises:
        Unavailable: JetStream is away.
    """
    place = PlacedLetter.place_of(letter_id)
    found = await api.get(subjects.DEADLETTER, {"seq": place}) if place is not None else None
    if found is None or place is None:
        return None
    if not subjects.matches_letters_of(found.subject, organization.id, organization.epoch):
        return None
    placed = PlacedLetter(place, msgspec.json.decode(found.data, type=DeadLetter))
    return placed if placed.id == letter_id else None


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


def _is_status(message: Msg) -> bool:
    return bool(message.headers and "Status" in message.headers)

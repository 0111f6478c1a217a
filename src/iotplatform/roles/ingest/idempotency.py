"""`Idempotency-Key`: what makes the retry of a request harmless.

A request with a key is a message of its own in each of its partitions, under an id made of organization, key and
partition. The stream takes such an id once within its dedup window, and says so at the second time.
"""

from __future__ import annotations

import re
from hashlib import blake2b
from typing import Final, Literal, Self

import msgspec

from iotplatform.adapters.nats.api import StoredMessage
from iotplatform.adapters.nats.headers import FINGERPRINT, LANE, MSG_ID, NUMBER, BlockHeaders
from iotplatform.domain.identifiers import partition_of
from iotplatform.errors import Fault, Rejected

FIELD: Final = "Idempotency-Key"
_visible: Final = re.compile(rb"[\x21-\x7e]{1,64}")

# Who stored the message of an id: we by an earlier try, an earlier request, or one with another body; or it is gone.
Storer = Literal["ours", "before", "other", "gone"]


class IdempotencyKey(msgspec.Struct, frozen=True):
    """A key with the fingerprint of the request that carries it."""

    key: bytes
    fingerprint: str

    @classmethod
    def of(cls, key: bytes, body: bytes, device_id: str = "") -> Self:
        """`device_id` is whom a device token speaks for: what a body leaves out belongs to the request too.

        Raises:
            Rejected: it is no key.
        """
        if not _visible.fullmatch(key):
            raise _invalid("must be 1 to 64 visible characters of ASCII")
        return cls(key, _digest(b"iot-body", device_id.encode(), body))

    def part(self, epoch: int, partition: int) -> KeyedPart:
        # Hashed, because the ids of a stream are one space: no sender may choose one in it.
        digest = _digest(b"iot-key", b"%d" % epoch, b"%d" % partition, self.key)
        return KeyedPart(f"key.{digest}", self.fingerprint)

    def first_partition(self, partitions: int) -> int:
        """Where every request with this key has a message, whatever its body is, and stores it before all others."""
        return partition_of(self.key.decode(), partitions)


class KeyedPart(msgspec.Struct, frozen=True):
    """What the message of one partition is known by."""

    message_id: str
    fingerprint: str

    def headers(self) -> dict[str, str]:
        return {MSG_ID: self.message_id, FINGERPRINT: self.fingerprint}

    def storer(self, found: StoredMessage | None, sent: BlockHeaders) -> Storer:
        """Who stored `found`, the message of which the stream says that `sent` is its duplicate."""
        if found is None or found.headers.get(MSG_ID) != self.message_id:
            return "gone"
        if found.headers.get(LANE) == sent.lane and found.headers.get(NUMBER) == str(sent.number):
            return "ours"
        return "before" if found.headers.get(FINGERPRINT) == self.fingerprint else "other"


def key_is_taken() -> Rejected:
    return _invalid("was used for a request with another body within the last two minutes")


def _invalid(detail: str) -> Rejected:
    return Rejected("invalid", f"the {FIELD} can't be used: it {detail}", faults=(Fault(detail, field=FIELD),))


def _digest(purpose: bytes, *parts: bytes) -> str:
    digest = blake2b(digest_size=16, person=purpose)
    for part in parts:
        # With its length in front, so that no two lists of parts look the same.
        digest.update(b"%d:" % len(part))
        digest.update(part)
    return digest.hexdigest()

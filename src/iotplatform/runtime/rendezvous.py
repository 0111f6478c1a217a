"""Who of several members something belongs to, worked out by each of them alone."""

from __future__ import annotations

from collections.abc import Iterable
from hashlib import blake2b


def owner_of(key: str, members: Iterable[str]) -> str | None:
    """The member with the largest hash of itself and the key; None when there are no members.

    The same in every process. A member that comes takes its share evenly from all the others, and one that goes leaves
    its share to all of them; nothing else moves.
    """
    encoded = b"\x00" + key.encode()
    return max(members, key=lambda member: (_weight(member.encode() + encoded), member), default=None)


def _weight(both: bytes) -> bytes:
    return blake2b(both, digest_size=8).digest()

"""What a deleted organization leaves behind until all of it is removed."""

from __future__ import annotations

import msgspec


class Removal(msgspec.Struct, frozen=True):
    """The organization that was deleted. Its id may name another one by now, its epoch never will."""

    organization_id: str
    epoch: int
    partitions: int

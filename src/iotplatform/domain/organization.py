"""The tenant, as every role knows it."""

from __future__ import annotations

import msgspec


class Organization(msgspec.Struct, frozen=True):
    """`epoch` is new for every creation of an organization, so that one created again shares nothing with its past."""

    id: str
    epoch: int
    name: str
    partitions: int
    created_at: int

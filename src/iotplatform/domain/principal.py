"""Who a request comes from, and what it may do: permissions, roles made of them, and the bearer of either."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, Literal, TypeAlias, get_args

import msgspec

# Write readings; see; handle (alarms, replays, commands); change (devices, rules, channels, keys); run the platform.
Permission: TypeAlias = Literal["ingest", "read", "operate", "administer", "platform"]
RoleName: TypeAlias = Literal["viewer", "operator", "admin"]
Kind: TypeAlias = Literal["anonymous", "user", "api_key", "device"]

PERMISSIONS: Final[tuple[Permission, ...]] = get_args(Permission)
NOTHING: Final[frozenset[Permission]] = frozenset()
EVERYTHING: Final[frozenset[Permission]] = frozenset(PERMISSIONS)

ROLES: Final[Mapping[RoleName, frozenset[Permission]]] = {
    "viewer": frozenset({"read"}),
    "operator": frozenset({"read", "operate"}),
    "admin": frozenset({"ingest", "read", "operate", "administer"}),
}


class Principal(msgspec.Struct, frozen=True):
    """`name` is what people read in audits and timelines. `within` goes by epochs, so that an organization which is
    made again under its old id has no rights left over from the time before.

    `organization_id` and `device_id` are given where a credential speaks for nothing else.
    """

    kind: Kind
    id: str
    name: str
    everywhere: frozenset[Permission] = NOTHING
    within: Mapping[int, frozenset[Permission]] = {}
    organization_id: str | None = None
    device_id: str | None = None
    # Of a person: what logging out ends.
    session_id: str | None = None

    def may(self, permission: Permission, epoch: int | None) -> bool:
        """In the organization of this epoch; None asks for the whole platform."""
        if permission in self.everywhere:
            return True
        return epoch is not None and permission in self.within.get(epoch, NOTHING)

    def permissions(self, epoch: int | None) -> frozenset[Permission]:
        return self.everywhere | (NOTHING if epoch is None else self.within.get(epoch, NOTHING))


# Who comes without a credential, where none is needed.
ANONYMOUS: Final = Principal("anonymous", "anonymous", "anonymous", everywhere=EVERYTHING)

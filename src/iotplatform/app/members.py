"""This process as a member of each role that shares its work with other processes of that role."""

from __future__ import annotations

import secrets

from iotplatform.adapters.embedded import DataDirectory
from iotplatform.adapters.postgres.changes import Change
from iotplatform.adapters.postgres.members import concern_members, roll_of
from iotplatform.app.resources import Resources
from iotplatform.runtime.membership import Membership


def membership_of(role: str, resources: Resources, data: DataDirectory) -> Membership:
    """The data directory gives the id: who is back after a crash is nobody new, and nobody is waited for."""
    membership = Membership(
        role, data.secret("member", lambda: secrets.token_hex(8)), roll_of(role, resources.database)
    )

    async def look(changes: list[Change]) -> None:
        if concern_members(changes, role):
            membership.nudge()

    resources.changes.register(look)
    return membership

"""`/signing-keys`: the keys by which device tokens are verified, and how one that is not wanted any more goes."""

from __future__ import annotations

import msgspec
from litestar import delete, get
from litestar.di import NamedDependency
from litestar.params import FromPath

from iotplatform.adapters.postgres import tokens
from iotplatform.adapters.postgres.changes import Change
from iotplatform.domain.timestamps import format_timestamp, to_microseconds
from iotplatform.errors import Rejected
from iotplatform.roles.management.access import PLATFORM
from iotplatform.roles.management.context import ManagementContext, known_form, not_found


class SigningKeyAnswer(msgspec.Struct, frozen=True):
    """`state`: `signs` new tokens here, is `configured` beside that one, or only `verifies` those of before."""

    kid: str
    state: str
    created_at: str


class SigningKeyList(msgspec.Struct, frozen=True):
    items: list[SigningKeyAnswer]


@get("/signing-keys", opt=PLATFORM)
async def list_signing_keys(context: NamedDependency[ManagementContext]) -> SigningKeyList:
    rows = await tokens.registered_keys(context.database)
    return SigningKeyList(
        [
            SigningKeyAnswer(row.kid, _state(context, row.kid), format_timestamp(to_microseconds(row.created_at)))
            for row in rows
        ]
    )


@delete("/signing-keys/{kid:str}", opt=PLATFORM)
async def delete_signing_key(kid: FromPath[str], context: NamedDependency[ManagementContext]) -> None:
    """From then on nothing that it has signed is valid, within seconds everywhere."""
    if _state(context, known_form("signing key", kid)) != "verifies":
        raise Rejected("conflict", "the key stands in auth.signing_keys: take it out there first, and restart")
    if not await tokens.remove_key(context.database, kid):
        raise not_found("signing key", kid)
    # Other processes hear of it by the change feed; this one need not wait for that.
    await context.directory.apply([Change("signing_key", None, kid)])


def _state(context: ManagementContext, kid: str) -> str:
    keys = context.tokens.keys
    if kid == keys.kid:
        return "signs"
    return "configured" if kid in keys.public_pems else "verifies"

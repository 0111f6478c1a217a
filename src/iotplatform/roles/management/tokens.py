"""`…/devices/{device}/tokens`, and the public keys by which anyone can verify them."""

from __future__ import annotations

import datetime as dt
import uuid
from typing import Final, Literal, Self

import msgspec
from litestar import Response, delete, get, post
from litestar.di import NamedDependency
from litestar.params import FromPath, JSONBody

from iotplatform.adapters.postgres import tokens
from iotplatform.adapters.postgres.changes import Change
from iotplatform.adapters.tokens.device_tokens import DeviceTokens
from iotplatform.adapters.tokens.keys import public_jwk
from iotplatform.domain.timestamps import format_timestamp, to_microseconds
from iotplatform.errors import Fault, Rejected
from iotplatform.roles.management.access import ADMINISTER, PUBLIC
from iotplatform.roles.management.context import ManagementContext, known_form, not_found
from iotplatform.roles.management.fields import Body

VALID_FOR: Final = dt.timedelta(days=365)


class NewToken(Body, frozen=True):
    kind: Literal["jwt", "key"] = "jwt"


NOTHING_SAID: Final = NewToken()


class TokenMade(msgspec.Struct, frozen=True):
    """`token` is shown this once."""

    id: str
    organization_id: str
    device_id: str
    kind: str
    expires_at: str
    token: str


class NewCredential(msgspec.Struct, frozen=True):
    """A signed token whose row is still to be stored."""

    token_id: str
    expires_at: dt.datetime
    token: str

    @classmethod
    def issue(cls, issuer: DeviceTokens, organization_id: str, device_id: str) -> Self:
        now = dt.datetime.now(dt.UTC).replace(microsecond=0)
        expires_at = now + VALID_FOR
        token_id = str(uuid.uuid4())
        issued_at_s, expires_at_s = int(now.timestamp()), int(expires_at.timestamp())
        return cls(token_id, expires_at, issuer.issue(organization_id, device_id, token_id, issued_at_s, expires_at_s))


@post("/organizations/{org:str}/devices/{device:str}/tokens", opt=ADMINISTER)
async def create_token(
    org: FromPath[str],
    device: FromPath[str],
    context: NamedDependency[ManagementContext],
    data: JSONBody[NewToken] = NOTHING_SAID,
) -> Response[TokenMade]:
    if data.kind != "jwt":
        fault = Fault("is not supported yet: leave it out for a JWT", field="kind")
        raise Rejected("invalid", "the body is not valid", faults=(fault,))
    organization = await context.organization(org)
    credential = NewCredential.issue(context.tokens, organization.id, known_form("device", device))
    await tokens.add(context.database, organization.epoch, device, credential.token_id, credential.expires_at)
    made = TokenMade(
        id=credential.token_id,
        organization_id=organization.id,
        device_id=device,
        kind="jwt",
        expires_at=format_timestamp(to_microseconds(credential.expires_at)),
        token=credential.token,
    )
    location = f"/organizations/{organization.id}/devices/{device}/tokens/{credential.token_id}"
    return Response(made, status_code=201, headers={"Location": location})


@delete("/organizations/{org:str}/devices/{device:str}/tokens/{token_id:str}", opt=ADMINISTER)
async def revoke_token(
    org: FromPath[str], device: FromPath[str], token_id: FromPath[str], context: NamedDependency[ManagementContext]
) -> None:
    organization = await context.organization(org)
    known_form("device", device)
    known_form("token", token_id)
    if not await tokens.revoke(context.database, organization.epoch, device, token_id):
        raise not_found("token", token_id)
    # Other processes hear of it by the change feed; this one need not wait for that.
    await context.directory.apply([Change("device_token", organization.epoch, token_id)])


class KeySet(msgspec.Struct, frozen=True):
    keys: list[dict[str, str]]


@get("/.well-known/jwks.json", opt=PUBLIC)
async def read_keys(context: NamedDependency[ManagementContext]) -> KeySet:
    rows = await tokens.registered_keys(context.database)
    return KeySet([{"kid": row.kid, **public_jwk(row.public_pem)} for row in rows])

"""`…/devices/{device}/tokens`, and the public keys by which anyone can verify them."""

from __future__ import annotations

import datetime as dt
import secrets
import uuid
from typing import Final, Literal, Self, TypeAlias

import msgspec
from litestar import Response, delete, get, post
from litestar.di import NamedDependency
from litestar.params import FromPath, JSONBody

from iotplatform.adapters.postgres import tokens
from iotplatform.adapters.postgres.changes import Change
from iotplatform.adapters.tokens.device_tokens import DeviceTokens
from iotplatform.adapters.tokens.keys import public_jwk
from iotplatform.domain.credentials import DEVICE_KEY_PREFIX, secret_hash
from iotplatform.domain.principal import Principal
from iotplatform.domain.timestamps import format_timestamp, to_microseconds
from iotplatform.roles.management.access import ADMINISTER, DEVICE, PUBLIC
from iotplatform.roles.management.context import ManagementContext, known_form, not_found
from iotplatform.roles.management.fields import Body

VALID_FOR: Final = dt.timedelta(days=365)


Kind: TypeAlias = Literal["jwt", "key"]


class NewToken(Body, frozen=True):
    """`key`: a short opaque key in place of a JWT."""

    kind: Kind = "jwt"


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
    """A signed token, or an opaque key with its hash, whose row is still to be stored."""

    token_id: str
    expires_at: dt.datetime
    token: str
    kind: Kind = "jwt"
    secret_hash: bytes | None = None

    @classmethod
    def issue(cls, issuer: DeviceTokens, organization_id: str, device_id: str, kind: Kind = "jwt") -> Self:
        now = dt.datetime.now(dt.UTC).replace(microsecond=0)
        expires_at = now + VALID_FOR
        token_id = str(uuid.uuid4())
        if kind == "key":
            # 128 random bits in 27 characters: short enough for the buffers of small clients.
            key = DEVICE_KEY_PREFIX + secrets.token_urlsafe(16)
            return cls(token_id, expires_at, key, "key", secret_hash(key))
        issued_at_s, expires_at_s = int(now.timestamp()), int(expires_at.timestamp())
        return cls(token_id, expires_at, issuer.issue(organization_id, device_id, token_id, issued_at_s, expires_at_s))

    def shown(self, organization_id: str, device_id: str) -> Response[TokenMade]:
        made = TokenMade(
            id=self.token_id,
            organization_id=organization_id,
            device_id=device_id,
            kind=self.kind,
            expires_at=format_timestamp(to_microseconds(self.expires_at)),
            token=self.token,
        )
        location = f"/organizations/{organization_id}/devices/{device_id}/tokens/{self.token_id}"
        return Response(made, status_code=201, headers={"Location": location})


@post("/organizations/{org:str}/devices/{device:str}/tokens", opt=ADMINISTER)
async def create_token(
    org: FromPath[str],
    device: FromPath[str],
    context: NamedDependency[ManagementContext],
    data: JSONBody[NewToken] = NOTHING_SAID,
) -> Response[TokenMade]:
    organization = await context.organization(org)
    made = NewCredential.issue(context.tokens, organization.id, known_form("device", device), data.kind)
    await tokens.add(
        context.database, organization.epoch, device, made.token_id, made.expires_at, secret_hash=made.secret_hash
    )
    return made.shown(organization.id, device)


@post("/token", opt=DEVICE)
async def renew_token(
    context: NamedDependency[ManagementContext],
    principal: NamedDependency[Principal],
    data: JSONBody[NewToken] = NOTHING_SAID,
) -> Response[TokenMade]:
    """A device's own next token. The one it came with stays alive, so that a lost answer costs nothing; others end."""
    assert principal.organization_id is not None  # noqa: S101 - the guard has let in a device
    assert principal.device_id is not None  # noqa: S101
    organization = await context.organization(principal.organization_id)
    device = principal.device_id
    made = NewCredential.issue(context.tokens, organization.id, device, data.kind)
    ended = await tokens.add(
        context.database,
        organization.epoch,
        device,
        made.token_id,
        made.expires_at,
        secret_hash=made.secret_hash,
        beside=principal.id,
    )
    await context.directory.apply([Change("device_token", organization.epoch, token_id) for token_id in ended])
    return made.shown(organization.id, device)


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

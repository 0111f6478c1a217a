"""Who may connect by MQTT or NATS, and what may be done there.

Topics of MQTT and subjects of NATS are the same names. MQTT devices are in the platform's own account, where MQTT keeps
its sessions; they can reach nothing but their topics. NATS devices need an inbox for answers, and everybody's inboxes
begin alike: so they are in accounts of their organizations, into which only the door, commands and replies are let.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable
from typing import Final

import msgspec

from iotplatform.adapters.nats.callout import Caller, Grant
from iotplatform.adapters.nats.device_accounts import SHARED
from iotplatform.adapters.nats.device_connections import PLATFORM
from iotplatform.adapters.tokens.verifier import DeviceClaims
from iotplatform.errors import Rejected
from iotplatform.runtime.strangers import Strangers

# nats-server takes no "." in a client id (2.15.1), and ":" is in no id of ours.
SEPARATOR: Final = ":"
# What nats-server gives a client that names none: as good as a secret, so nobody's session is behind it.
_GIVEN_ID: Final = re.compile(r"[0-9A-Za-z]{22}")
MAX_CLIENT_ID: Final = 256
# With one token. A device has one or two; a gateway a few more.
MAX_CONNECTIONS: Final = 32

_OPEN_MQTT: Final = ("iot.>",)
_OPEN_NATS: Final = (("intake.>", "iot.*.*.replies.*"), ("_INBOX.>", "iot.*.*.commands.*"))


class Sign(msgspec.Struct, frozen=True):
    """What a connection is called at the server: which device it is, by which token, and which key has signed that;
    empty what there is none of.
    """

    organization_id: str = ""
    device_id: str = ""
    token_id: str = ""
    kid: str = ""

    def __str__(self) -> str:
        signed_by = f" {self.kid}" if self.kid else ""
        return f"iot {self.organization_id} {self.device_id} {self.token_id}{signed_by}"

    @classmethod
    def parse(cls, name: str) -> Sign | None:
        """None for a connection that is not a device's."""
        kind, *parts = name.split(" ")
        is_one = kind == "iot" and (len(parts) == 3 or (len(parts) == 4 and parts[3]))
        return cls(*parts) if is_one else None


class Entrance:
    """`verify` tells whose token it is; `is_open` whether who has none may come in.

    `account_of` names the server's account for an organization's devices of NATS, `connections_of` says how many
    connections there are under a sign. `strangers` are those of all doors: who guesses at one is slow at every one.
    """

    def __init__(
        self,
        verify: Callable[[str], Awaitable[DeviceClaims]],
        account_of: Callable[[str], Awaitable[str]],
        connections_of: Callable[[str], int],
        strangers: Strangers,
        *,
        is_open: bool,
    ) -> None:
        self._verify = verify
        self._account_of = account_of
        self._connections_of = connections_of
        self._strangers = strangers
        self._is_open = is_open

    async def decide(self, caller: Caller) -> Grant:
        """What a client may do.

        Raises:
            Rejected: it may not connect.
            Unavailable: whether it may can't be found out now.
        """
        if len(caller.client_id) > MAX_CLIENT_ID:
            raise Rejected("too_large", f"the client id is longer than {MAX_CLIENT_ID} characters")
        if not caller.password:
            if not self._is_open:
                raise Rejected("unauthenticated", "give the device's token as the password")
            return _open(caller)
        return await self._device(caller, await self._claims(caller))

    async def _claims(self, caller: Caller) -> DeviceClaims:
        secret = caller.password.encode("utf-8", "surrogatepass")
        if self._strangers.wait_s(caller.address, secret):
            raise Rejected("over_quota", "too many credentials from this address were refused: wait a little")
        try:
            claims = await self._verify(caller.password)
        except Rejected as error:
            if error.kind == "unauthenticated":
                self._strangers.refused(caller.address, secret)
            raise
        self._strangers.let_in(secret)
        return claims

    async def _device(self, caller: Caller, claims: DeviceClaims) -> Grant:
        organization_id, device_id = claims.organization_id, claims.device_id
        sign = str(Sign(organization_id, device_id, claims.token_id, claims.kid))
        if self._connections_of(sign) >= MAX_CONNECTIONS:
            raise Rejected("over_quota", f"there are {MAX_CONNECTIONS} connections with this token: end one of them")
        if caller.protocol == "mqtt":
            return _mqtt_device(caller, claims, sign)
        own = f"{organization_id}.{device_id}"
        return Grant(
            await self._account_of(organization_id),
            sign,
            (f"intake.{own}", f"iot.{own}.replies.*"),
            ("_INBOX.>", f"inbox.{own}.>", f"iot.{own}.commands.*"),
            claims.expires_at // 1_000_000,
        )


def _mqtt_device(caller: Caller, claims: DeviceClaims, sign: str) -> Grant:
    organization_id, device_id = claims.organization_id, claims.device_id
    if not _is_own(caller.client_id, f"{organization_id}{SEPARATOR}{device_id}"):
        raise Rejected(
            "forbidden",
            f"the client id must be {organization_id}{SEPARATOR}{device_id}, or begin with that and {SEPARATOR!r}",
        )
    own = f"iot.{organization_id}.{device_id}"
    topics = (own, f"{own}.>")
    return Grant(PLATFORM, sign, topics, topics, claims.expires_at // 1_000_000)


def _is_own(client_id: str, own: str) -> bool:
    """Sessions belong to client ids, so nobody may come under one that is another's."""
    return client_id == own or client_id.startswith(own + SEPARATOR) or bool(_GIVEN_ID.fullmatch(client_id))


def _open(caller: Caller) -> Grant:
    names = caller.client_id.split(SEPARATOR)
    sign = str(Sign(*names[:2]) if len(names) > 1 and not any(" " in name for name in names[:2]) else Sign())
    if caller.protocol == "nats":
        publish, subscribe = _OPEN_NATS
        return Grant(SHARED, sign, publish, subscribe)
    return Grant(PLATFORM, sign, _OPEN_MQTT, _OPEN_MQTT)

"""The auth callout: nats-server asks who a client is, and we answer with what it may do.

The question comes on a subject of the account AUTH, in which nobody but nats-server and the platform is. The answer is
a token signed by the account's seed, around another one that describes the user. nats-server keeps nothing of it, so
a storm of reconnections is a storm of questions: an answer costs two signatures and no look-up that is not cached.
"""

from __future__ import annotations

import base64
import secrets
import time
from collections.abc import Awaitable, Callable
from typing import Any, Final, Literal

import msgspec
import structlog
from nats.aio.msg import Msg

from iotplatform.adapters.nats.callout_keys import CalloutKeys
from iotplatform.adapters.nats.connection import Connection
from iotplatform.errors import PlatformError, Rejected, Unavailable
from iotplatform.runtime.tasks import Tasks

log = structlog.get_logger(role="ingest")

SUBJECT: Final = "$SYS.REQ.USER.AUTH"
QUEUE: Final = "iotplatform"
# What waits for an answer at once; who comes on top is not answered, is refused in time, and tries again.
MAX_WAITING: Final = 5_000

_HEADER: Final = b"eyJ0eXAiOiJKV1QiLCJhbGciOiJlZDI1NTE5LW5rZXkifQ"


class Caller(msgspec.Struct, frozen=True):
    """A client that wants to connect."""

    protocol: Literal["mqtt", "nats"]
    client_id: str
    user: str
    password: str
    address: str = ""


class Grant(msgspec.Struct, frozen=True):
    """What a client may do, in which of the server's accounts.

    `name` is what the server calls the connection from now on; it ends at `expires_at_s`.
    """

    account: str
    name: str
    publish: tuple[str, ...]
    subscribe: tuple[str, ...]
    expires_at_s: int | None = None


class _Server(msgspec.Struct, frozen=True):
    id: str


class _Client(msgspec.Struct, frozen=True):
    type: str = "nats"
    mqtt_id: str = ""
    host: str = ""


class _Options(msgspec.Struct, frozen=True):
    user: str = ""
    password: str = msgspec.field(default="", name="pass")
    auth_token: str = ""


class _Question(msgspec.Struct, frozen=True):
    server_id: _Server
    user_nkey: str
    client_info: _Client = _Client()
    connect_opts: _Options = _Options()


class _Claims(msgspec.Struct, frozen=True):
    nats: _Question


_decoder = msgspec.json.Decoder(_Claims)

Decide = Callable[[Caller], Awaitable[Grant]]


class AuthCallout:
    """Answers while its connection is up. `decide` raises Rejected for who is refused."""

    def __init__(self, keys: CalloutKeys, connection: Connection, decide: Decide) -> None:
        self._keys = keys
        self._connection = connection
        self._decide = decide
        self._waiting = 0
        self._tasks = Tasks("ingest.callout")

    async def start(self) -> None:
        await self._connection.subscribe(SUBJECT, self._asked, queue=QUEUE)

    async def wait(self) -> None:
        await self._tasks.wait()

    async def stop(self) -> None:
        await self._connection.unsubscribe(SUBJECT)
        await self._tasks.stop()

    async def _asked(self, message: Msg) -> None:
        try:
            question = _decoder.decode(_payload_of(message.data)).nats
        except (ValueError, IndexError) as error:
            log.warning("callout.unreadable", detail=str(error))
            return
        if self._waiting >= MAX_WAITING:
            return
        self._waiting += 1
        self._tasks.spawn(self._answer(question, message.reply), "answer")

    async def _answer(self, question: _Question, reply: str) -> None:
        try:
            verdict = await self._verdict(question)
            await self._connection.publish(reply, self._response(question, verdict))
        except Unavailable as error:
            # Not answered: the server refuses the client in time, and the client tries again.
            log.warning("callout.unanswered", detail=str(error))
        finally:
            self._waiting -= 1

    async def _verdict(self, question: _Question) -> Grant | str:
        options = question.connect_opts
        caller = Caller(
            protocol="mqtt" if question.client_info.type == "mqtt" else "nats",
            client_id=question.client_info.mqtt_id,
            user=options.user,
            password=options.password or options.auth_token,
            address=question.client_info.host,
        )
        try:
            return await self._decide(caller)
        except Unavailable:
            raise
        except PlatformError as error:
            detail = error.detail if isinstance(error, Rejected) else str(error)
            log.info("callout.refused", protocol=caller.protocol, detail=detail)
            return detail

    def _response(self, question: _Question, verdict: Grant | str) -> bytes:
        answer: dict[str, Any] = {"type": "authorization_response", "version": 2}
        if isinstance(verdict, str):
            answer["error"] = verdict
        else:
            answer["jwt"] = self._user(question.user_nkey, verdict).decode()
        return self._signed({"sub": question.user_nkey, "aud": question.server_id.id, "nats": answer})

    def _user(self, user_nkey: str, grant: Grant) -> bytes:
        claims: dict[str, Any] = {
            "sub": user_nkey,
            "aud": grant.account,
            "name": grant.name,
            "nats": {
                "pub": {"allow": grant.publish},
                "sub": {"allow": grant.subscribe},
                # Of a connection's limits nats-server 2.15 takes only its account's: see `embedded.nats_config`.
                "subs": -1,
                "data": -1,
                "payload": -1,
                "type": "user",
                "version": 2,
            },
        }
        if grant.expires_at_s is not None:
            claims["exp"] = grant.expires_at_s
        return self._signed(claims)

    def _signed(self, claims: dict[str, Any]) -> bytes:
        claims |= {"iss": self._keys.issuer, "iat": int(time.time()), "jti": secrets.token_hex(8)}
        text = b"%s.%s" % (_HEADER, _base64url(msgspec.json.encode(claims)))
        return b"%s.%s" % (text, _base64url(self._keys.sign(text)))


def _payload_of(token: bytes) -> bytes:
    part = token.split(b".")[1]
    return base64.urlsafe_b64decode(part + b"=" * (-len(part) % 4))


def _base64url(data: bytes) -> bytes:
    return base64.urlsafe_b64encode(data).rstrip(b"=")

"""Which devices are connected, as nats-server tells it: events of the system account, and a list to begin with."""

from __future__ import annotations

from collections import Counter
from collections.abc import Awaitable, Callable
from typing import Final, Literal

import msgspec
import structlog
from nats.aio.msg import Msg

from iotplatform.adapters.nats.connection import Connection
from iotplatform.adapters.nats.device_accounts import is_of_devices
from iotplatform.errors import Unavailable
from iotplatform.runtime.tasks import Tasks

log = structlog.get_logger(role="ingest")

# Where devices of MQTT are, and the platform itself.
PLATFORM: Final = "PLATFORM"
PAGE: Final = 1_024
# How long servers of a cluster may take to answer.
ANSWER_S: Final = 1.0

_KINDS: Final[dict[str, Literal["connected", "disconnected"]]] = {
    "CONNECT": "connected",
    "DISCONNECT": "disconnected",
}


class Link(msgspec.Struct, frozen=True):
    """A live connection: a number on a server."""

    server: str
    number: int


class Event(msgspec.Struct, frozen=True):
    """`name` is what the connection was called when it was let in."""

    kind: Literal["connected", "disconnected"]
    link: Link
    name: str


class _Server(msgspec.Struct):
    id: str


class _Client(msgspec.Struct):
    id: int
    user: str = ""


class _Told(msgspec.Struct):
    server: _Server
    client: _Client


class _Listed(msgspec.Struct):
    cid: int
    authorized_user: str = ""
    account: str = ""


class _Page(msgspec.Struct):
    total: int = 0
    connections: list[_Listed] = []


class _List(msgspec.Struct):
    server: _Server
    data: _Page = msgspec.field(default_factory=_Page)


_told_decoder = msgspec.json.Decoder(_Told)
_list = msgspec.json.Decoder(_List)


class DeviceConnections:
    """`live` are those known now. `on_event` is called for each that comes or goes, `on_list` when all are listed."""

    def __init__(
        self,
        connection: Connection,
        on_event: Callable[[Event], None],
        on_list: Callable[[], Awaitable[None]],
    ) -> None:
        self._connection = connection
        self._on_event = on_event
        self._on_list = on_list
        self.live: dict[Link, str] = {}
        self._counts: Counter[str] = Counter()
        # What has come and gone while a list is on its way; None of those that have gone.
        self._meanwhile: dict[Link, str | None] = {}
        self._listing = False
        self._tasks = Tasks("ingest.connections")

    async def start(self) -> None:
        # One subscription, because two would not keep the order of a connection's coming and going.
        await self._connection.subscribe("$SYS.ACCOUNT.*.*", self._told)
        self._connection.on_connected(self._spawn_list)
        if self._connection.is_connected:
            self._spawn_list()

    async def wait(self) -> None:
        await self._tasks.wait()

    async def stop(self) -> None:
        await self._tasks.stop()

    def count(self, name: str) -> int:
        """How many of the live connections are called so."""
        return self._counts[name]

    async def end(self, link: Link) -> None:
        """End a connection now; the client may try again, and is asked again who it is."""
        try:
            await self._connection.request(
                f"$SYS.REQ.SERVER.{link.server}.KICK", msgspec.json.encode({"cid": link.number})
            )
        except Unavailable as error:
            log.warning("connections.not_ended", detail=error.detail)

    def _spawn_list(self) -> None:
        self._tasks.spawn(self._relist(), "list")

    async def _told(self, message: Msg) -> None:
        _, _, account, what = message.subject.split(".")
        kind = _KINDS.get(what)
        if kind is None or not _is_watched(account):
            return
        try:
            told = _told_decoder.decode(message.data)
        except (msgspec.DecodeError, UnicodeDecodeError):
            return
        link = Link(told.server.id, told.client.id)
        before = self.live.pop(link, None)
        if before is not None:
            self._counts[before] -= 1
            if not self._counts[before]:
                del self._counts[before]
        if kind == "connected":
            self.live[link] = told.client.user
            self._counts[told.client.user] += 1
        if self._listing:
            self._meanwhile[link] = self.live.get(link)
        self._on_event(Event(kind, link, told.client.user))

    async def _relist(self) -> None:
        """What came or went while nothing was heard."""
        self._meanwhile = {}
        self._listing = True
        try:
            found = await self._list()
        except (Unavailable, msgspec.DecodeError) as error:
            log.warning("connections.not_listed", detail=str(error))
            return
        finally:
            self._listing = False
        for link, name in self._meanwhile.items():
            if name is None:
                found.pop(link, None)
            else:
                found[link] = name
        self._meanwhile = {}
        self.live = found
        self._counts = Counter(found.values())
        await self._on_list()

    async def _list(self) -> dict[Link, str]:
        found: dict[Link, str] = {}
        query = {"auth": True, "limit": PAGE}
        answers = await self._connection.collect(
            "$SYS.REQ.SERVER.PING.CONNZ", msgspec.json.encode(query), within_s=ANSWER_S
        )
        for first in map(_list.decode, (answer.data for answer in answers)):
            page, offset = first, 0
            while True:
                found |= {
                    Link(page.server.id, one.cid): one.authorized_user
                    for one in page.data.connections
                    if _is_watched(one.account)
                }
                offset += len(page.data.connections)
                if offset >= page.data.total or not page.data.connections:
                    break
                answer = await self._connection.request(
                    f"$SYS.REQ.SERVER.{page.server.id}.CONNZ", msgspec.json.encode({**query, "offset": offset})
                )
                page = _list.decode(answer.data)
        return found


def _is_watched(account: str) -> bool:
    return account == PLATFORM or is_of_devices(account)

"""In open mode only requests that name this machine are answered, and no page of another one sends them.

Without credentials a web page could otherwise point a name of its own at 127.0.0.1 and have the browser of its reader
speak to the platform (DNS rebinding). And a browser sends some requests anywhere, whoever asks for it: a POST without a
body, or with one that is called text. Their answers the page can't read, but they would do what they say.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable, Sequence
from typing import Final

import msgspec
from litestar.enums import ScopeType
from litestar.types import ASGIApp, Receive, Scope, Send

from iotplatform.app.http.problems import send_problem
from iotplatform.errors import Rejected

LOOPBACK: Final = frozenset({"localhost", "127.0.0.1", "[::1]"})
MAX_KNOWN: Final = 1_000
# A name, an IPv4 address or an IPv6 address in brackets, and perhaps a port.
_HOST: Final = re.compile(r"(\[[0-9a-f:.]+\]|[a-z0-9._-]+)(?::[0-9]{1,5})?")
_ORIGIN: Final = re.compile(r"https?://(.*)", re.DOTALL)


class HostRules(msgspec.Struct, frozen=True):
    """`allowed`: names without ports, beside loopback. `addresses` lets every plain IP address pass, for a listener
    that other machines are meant to reach: a page can't rebind an address. Not `checked`: everything passes.
    """

    allowed: Sequence[str] = ()
    addresses: bool = False
    checked: bool = True


class HostCheck:
    """ASGI middleware: 421 for a `Host` that the rules don't let pass, 403 for the `Origin` of another machine."""

    def __init__(self, app: ASGIApp, rules: HostRules | None = None) -> None:
        rules = rules or HostRules()
        self._app = app
        self._checked = rules.checked
        self._addresses = rules.addresses
        self._allowed = LOOPBACK | {name.lower() for name in rules.allowed}
        # Headers that were found to be ours, so that a busy client's costs one look-up.
        self._known: set[bytes] = set()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if self._checked and scope["type"] == ScopeType.HTTP and (refusal := self._refusal(scope["headers"])):
            await send_problem(refusal, send)
            return
        await self._app(scope, receive, send)

    def _refusal(self, headers: Iterable[tuple[bytes, bytes]]) -> Rejected | None:
        hosts = [value for name, value in headers if name == b"host"]
        if not self._is_ours(hosts):
            return Rejected(
                "misdirected", "without authentication only requests to this machine's own names are answered"
            )
        origins = [value for name, value in headers if name == b"origin"]
        if origins and not all(self._is_own_page(origin, hosts[0]) for origin in origins):
            return Rejected("forbidden", "without authentication no page of another machine is answered")
        return None

    def knows(self, host: bytes) -> bool:
        """Whether a Host header was found to be ours before."""
        return not self._checked or host in self._known

    def _is_own_page(self, origin: bytes, host: bytes) -> bool:
        """Whether a page comes from the machine that is asked, on whatever port, or from one of its names. An address
        says nothing, since pages have addresses too.
        """
        named = _ORIGIN.fullmatch(origin.decode("latin-1").lower())
        theirs = _HOST.fullmatch(named[1]) if named else None
        ours = _HOST.fullmatch(host.decode("latin-1").lower())
        return theirs is not None and ours is not None and (theirs[1] == ours[1] or theirs[1] in self._allowed)

    def _is_ours(self, given: Sequence[bytes]) -> bool:
        if len(given) != 1:
            return False
        if given[0] in self._known:
            return True
        found = _HOST.fullmatch(given[0].decode("latin-1").lower())
        ours = found is not None and (found[1] in self._allowed or (self._addresses and _is_address(found[1])))
        if ours and len(self._known) < MAX_KNOWN:
            self._known.add(given[0])
        return ours


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host.strip("[]"))
    except ValueError:
        return False
    return True

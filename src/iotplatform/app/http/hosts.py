"""In open mode only requests that name this machine are answered.

Without credentials a web page could otherwise point a name of its own at 127.0.0.1 and have the browser of its reader
speak to the platform (DNS rebinding).
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


class HostRules(msgspec.Struct, frozen=True):
    """`allowed`: names without ports, beside loopback. `addresses` lets every plain IP address pass, for a listener
    that other machines are meant to reach: a page can't rebind an address. Not `checked`: everything passes.
    """

    allowed: Sequence[str] = ()
    addresses: bool = False
    checked: bool = True


class HostCheck:
    """ASGI middleware: 421 for a `Host` that the rules don't let pass."""

    def __init__(self, app: ASGIApp, rules: HostRules | None = None) -> None:
        rules = rules or HostRules()
        self._app = app
        self._checked = rules.checked
        self._addresses = rules.addresses
        self._allowed = LOOPBACK | {name.lower() for name in rules.allowed}
        # Headers that were found to be ours, so that a busy client's costs one look-up.
        self._known: set[bytes] = set()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if self._checked and scope["type"] == ScopeType.HTTP and not self._is_ours(scope["headers"]):
            refusal = Rejected(
                "misdirected", "without authentication only requests to this machine's own names are answered"
            )
            await send_problem(refusal, send)
            return
        await self._app(scope, receive, send)

    def knows(self, host: bytes) -> bool:
        """Whether a Host header was found to be ours before."""
        return not self._checked or host in self._known

    def _is_ours(self, headers: Iterable[tuple[bytes, bytes]]) -> bool:
        given = [value for name, value in headers if name == b"host"]
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

"""Who is behind a proxy: `X-Forwarded-For`, believed from those who are trusted, and from nobody else."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Sequence
from typing import Any, Final, TypeAlias

Network: TypeAlias = ipaddress.IPv4Network | ipaddress.IPv6Network
Address: TypeAlias = ipaddress.IPv4Address | ipaddress.IPv6Address

_HEADER: Final = b"x-forwarded-for"


def parse_networks(texts: Iterable[str]) -> tuple[Network, ...]:
    """Raises:
    ValueError: one is neither an address nor a network.
    """
    return tuple(ipaddress.ip_network(text.strip()) for text in texts)


class Forwarding:
    """ASGI middleware: `client` becomes who has sent the request to the first of our proxies.

    Each proxy appends whom it has it from, so the list is read from its end, and what stands before the first address
    that is not trusted is anybody's invention.
    """

    def __init__(self, app: Any, trusted: Sequence[Network]) -> None:
        self._app = app
        self._trusted = trusted

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        client = scope.get("client")
        if client is not None and (found := self._sender(client[0], scope["headers"])) is not None:
            scope["client"] = (str(found), 0)
        await self._app(scope, receive, send)

    def _sender(self, peer: str, headers: Iterable[tuple[bytes, bytes]]) -> Address | None:
        """None: the peer itself."""
        if not self._is_trusted(_address(peer)):
            return None
        given = b",".join(value for name, value in headers if name == _HEADER).decode("latin-1")
        found: Address | None = None
        for text in reversed(given.split(",")):
            address = _address(text)
            if address is None:
                break
            found = address
            if not self._is_trusted(address):
                break
        return found

    def _is_trusted(self, address: Address | None) -> bool:
        return address is not None and any(address in network for network in self._trusted)


def _address(text: str) -> Address | None:
    """Of `1.2.3.4`, `1.2.3.4:56`, `::1` or `[::1]:56`."""
    text = text.strip()
    if text.startswith("["):
        text = text[1:].partition("]")[0]
    elif text.count(":") == 1:
        text = text.partition(":")[0]
    try:
        found = ipaddress.ip_address(text.partition("%")[0])
    except ValueError:
        return None
    return getattr(found, "ipv4_mapped", None) or found

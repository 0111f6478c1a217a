"""Where a webhook may lead: tenants choose the URL, so nothing of the inside may be reachable by it."""

from __future__ import annotations

import asyncio
import ipaddress
import re
import socket
from collections.abc import Awaitable, Callable, Sequence
from typing import Final
from urllib.parse import urlsplit

import msgspec

from iotplatform.errors import ConfigError, Rejected

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Network = ipaddress.IPv4Network | ipaddress.IPv6Network
# From a host and a port to the addresses it has.
Resolve = Callable[[str, int], Awaitable[Sequence[str]]]

MAX_URL: Final = 2_000
RESOLVE_S: Final = 3.0

# Public by their numbers, and yet doors to the inside: metadata of clouds, other notations of IPv4 addresses, networks
# for special purposes, not all of which every version of Python knows.
_REFUSED: Final[tuple[Network, ...]] = tuple(
    ipaddress.ip_network(text)
    for text in (
        "100.64.0.0/10",
        "168.63.129.16/32",
        "192.0.0.0/24",
        "192.88.99.0/24",
        "198.18.0.0/15",
        "240.0.0.0/4",
        "::/96",
        "64:ff9b::/96",
        "64:ff9b:1::/48",
        "100::/64",
        "2001::/23",
        "2002::/16",
        "fec0::/10",
    )
)
# Resolvers take 127.1 and 0x7f000001 for addresses.
_NUMBER: Final = re.compile(r"[0-9]+|0[xX][0-9a-fA-F]*")
_INSIDE: Final = ("localhost", "internal", "local", "localdomain", "home.arpa")


class WebhookSettings(msgspec.Struct, frozen=True):
    """The settings `notification.*`: private addresses are allowed all, or those in `allowed_addresses`.

    Raises:
        ConfigError: an entry is no network.
    """

    allow_private_addresses: bool = False
    allowed_addresses: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        _ = self.networks

    @property
    def networks(self) -> tuple[Network, ...]:
        try:
            return tuple(ipaddress.ip_network(text) for text in self.allowed_addresses)
        except ValueError as error:
            raise ConfigError(f"notification.allowed_addresses: {error}; networks look like 10.1.0.0/16") from None


class Destinations:
    def __init__(self, settings: WebhookSettings, resolve: Resolve | None = None) -> None:
        self._all = settings.allow_private_addresses
        self._allowed = settings.networks
        self._resolve = resolve or resolve_by_system

    def permits(self, text: str) -> bool:
        address = ipaddress.ip_address(text.partition("%")[0])
        if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is not None:
            address = address.ipv4_mapped
        if self._all or any(address in network for network in self._allowed):
            return True
        inside = not address.is_global or address.is_multicast or address.is_reserved or address.is_unspecified
        return not inside and not any(address in network for network in _REFUSED)

    async def addresses(self, host: str, port: int) -> list[str]:
        """Those of `host`, all of them permitted.

        Raises:
            Rejected: one of them is not.
            OSError: it has none that can be found now.
        """
        found = [host] if is_address(host) else list(await self._resolve(host, port))
        if not found:
            raise OSError(f"{host} has no address")
        if not all(self.permits(each) for each in found):
            raise Rejected("invalid", f"{host} is a private or otherwise inner address, which is not allowed")
        return found

    async def fault_of(self, url: str) -> str | None:
        """Why a webhook can't lead there; None when it can. A name that can't be resolved now may be so later."""
        fault, host, port = parse_url(url)
        if fault is not None:
            return fault
        try:
            async with asyncio.timeout(RESOLVE_S):
                await self.addresses(host, port)
        except Rejected as error:
            return error.detail
        except OSError:  # contains TimeoutError
            label = host.rstrip(".").lower()
            if not self._all and any(label == each or label.endswith(f".{each}") for each in _INSIDE):
                return f"{host} is an inner name, which is not allowed"
        return None


def parse_url(url: str) -> tuple[str | None, str, int]:
    """What is wrong with it, or None, and host and port."""
    if len(url) > MAX_URL or not url.isascii() or not url.isprintable() or " " in url or "\\" in url:
        return f"must be at most {MAX_URL} printable ASCII characters without spaces", "", 0
    try:
        parts = urlsplit(url)
        host, port = parts.hostname or "", parts.port
    except ValueError:
        return "is no URL such as https://example.org/hook", "", 0
    if parts.scheme not in {"http", "https"} or not host or port == 0:
        return "must be a URL such as https://example.org/hook", "", 0
    if parts.username is not None or parts.password is not None or parts.fragment:
        return "must hold no user, password or fragment: credentials belong into config.headers", "", 0
    if not is_address(host) and _NUMBER.fullmatch(host.rstrip(".").rpartition(".")[2]):
        return "must have a name, or an address as four decimal numbers", "", 0
    return None, host, port or (443 if parts.scheme == "https" else 80)


def is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return False
    return True


async def resolve_by_system(host: str, port: int) -> Sequence[str]:
    found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(entry[4][0]) for entry in found))

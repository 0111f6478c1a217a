"""Where a webhook may lead, and where never."""

from __future__ import annotations

import pytest

from iotplatform.adapters.webhook.addresses import Destinations, WebhookSettings, parse_url
from iotplatform.errors import ConfigError


def destinations(found: list[str] | None, settings: WebhookSettings = WebhookSettings()) -> Destinations:  # noqa: B008
    async def resolve(host: str, port: int) -> list[str]:
        if found is None:
            raise OSError("no such name")
        return found

    return Destinations(settings, resolve)


INNER = [
    "127.0.0.1", "10.1.2.3", "172.16.0.1", "192.168.1.1", "169.254.169.254", "100.64.0.1", "0.0.0.0", "224.0.0.1",
    "255.255.255.255", "240.0.0.1", "168.63.129.16", "192.0.0.8", "198.18.0.1", "::", "::1", "fc00::1", "fe80::1",
    "fe80::1%eth0", "ff02::1", "::ffff:127.0.0.1", "::ffff:10.0.0.1", "64:ff9b::7f00:1", "64:ff9b::a00:1",
    "2002:7f00:1::", "::127.0.0.1", "2001::1", "2001:db8::1",
]  # fmt: skip


@pytest.mark.parametrize("address", INNER)
async def test_inner_addresses_are_refused_as_names_and_as_literals(address: str) -> None:
    assert "not allowed" in (await destinations([address]).fault_of("https://hooks.example.org/x") or "")
    literal = f"[{address.partition('%')[0]}]" if ":" in address else address
    assert await destinations(["93.184.216.34"]).fault_of(f"http://{literal}/") is not None


@pytest.mark.parametrize("address", ["93.184.216.34", "1.1.1.1", "2606:4700:4700::1111"])
async def test_public_addresses_are_taken(address: str) -> None:
    assert await destinations([address]).fault_of("https://hooks.example.org/x?y=z") is None


async def test_one_inner_address_among_public_ones_is_enough() -> None:
    assert await destinations(["93.184.216.34", "10.0.0.1"]).fault_of("https://hooks.example.org/") is not None


@pytest.mark.parametrize(
    "host", ["127.1", "0x7f.1", "2130706433", "0177.0.0.1", "127.0.0.1.", "localhost", "LOCALHOST.", "db.internal"]
)
async def test_other_ways_to_write_an_inner_address(host: str) -> None:
    """The system's resolver understands some of them; a name that can't be resolved is refused by how it ends."""
    settings = WebhookSettings()
    assert await Destinations(settings).fault_of(f"http://{host}/") is not None


async def test_a_name_that_can_not_be_resolved_now_may_be_so_later() -> None:
    assert await destinations(None).fault_of("https://hooks.example.org/") is None


async def test_what_the_operator_allows() -> None:
    some = WebhookSettings(allowed_addresses=("10.1.0.0/16",))
    assert await destinations(["10.1.2.3"], some).fault_of("http://hook/") is None
    assert await destinations(["10.2.2.3"], some).fault_of("http://hook/") is not None
    everything = WebhookSettings(allow_private_addresses=True)
    assert await destinations(["127.0.0.1"], everything).fault_of("http://localhost:9000/") is None


def test_an_allowed_network_must_be_one() -> None:
    with pytest.raises(ConfigError, match="allowed_addresses"):
        WebhookSettings(allowed_addresses=("10.1.2.3/16",))


@pytest.mark.parametrize(
    "url",
    [
        "", "hooks.example.org", "ftp://example.org/", "file:///etc/passwd", "https://", "https:///x", "http://a b/",
        "http://user:secret@example.org/", "http://user@example.org/", "https://example.org/#x", "http://example.org:0/",
        "http://example.org:99999/", "http://[::1/", "http://example.org\\@inner/", "http://exämple.org/",
        "http://example.org/\r\nX: y", "https://example.org/" + "x" * 2_000, "javascript:alert(1)", "gopher://x/",
    ],
)  # fmt: skip
def test_what_is_no_url_for_a_webhook(url: str) -> None:
    assert parse_url(url)[0]

"""What is sealed opens only with its key, and only in its place."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from iotplatform.adapters.secrets.vault import Vault
from iotplatform.errors import ConfigError, Unavailable

KEY, OTHER = Vault.make_key(), Vault.make_key()
SOME = "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA="
PLACE = "channel.7.hook"


@given(st.binary(max_size=500))
def test_it_comes_back(text: bytes) -> None:
    assert Vault.open_with(KEY).unseal(Vault.open_with(KEY).seal(text, PLACE), PLACE) == text


def test_nothing_of_it_is_seen_and_no_two_are_alike() -> None:
    vault = Vault.open_with(KEY)
    first, second = (vault.seal(b"whsec_12345", PLACE) for _ in range(2))
    assert first != second
    assert "whsec" not in first


def test_it_opens_in_no_other_place() -> None:
    vault = Vault.open_with(KEY)
    with pytest.raises(Unavailable, match="damaged"):
        vault.unseal(vault.seal(b"x", PLACE), "channel.8.hook")


@pytest.mark.parametrize(
    "spoil", [lambda text: text[:-4], lambda text: text[:-6] + "AAAAAA", lambda _: "v1.x", lambda _: ""]
)
def test_what_was_spoilt_does_not_open(spoil) -> None:
    vault = Vault.open_with(KEY)
    with pytest.raises(Unavailable):
        vault.unseal(spoil(vault.seal(b"x" * 40, PLACE)), PLACE)


def test_another_process_needs_the_key() -> None:
    with pytest.raises(Unavailable, match=r"set secrets\.key"):
        Vault.open_with(OTHER).unseal(Vault.open_with(KEY).seal(b"x", PLACE), PLACE)


def test_keys_are_changed_by_putting_a_new_one_in_front() -> None:
    old = Vault.open_with(KEY).seal(b"old", PLACE)
    both = Vault.open_with(f"{OTHER}\n{KEY}")
    assert both.unseal(old, PLACE) == b"old"
    assert Vault.open_with(OTHER).unseal(both.seal(b"new", PLACE), PLACE) == b"new"


@pytest.mark.parametrize("text", ["", "short", "a" * 44, "ü" * 32, f"{SOME}\n,x"])
def test_what_is_no_key_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="32 bytes in base64"):
        Vault.open_with(text)

from __future__ import annotations

import os

import nkeys
import pytest

from iotplatform.adapters.nats.callout_keys import CalloutKeys
from iotplatform.errors import ConfigError


def seed(prefix):
    return bytes(nkeys.encode_seed(os.urandom(32), prefix)).decode()


def test_the_same_seed_gives_the_same_keys():
    given = seed(nkeys.PREFIX_BYTE_ACCOUNT)
    first, second = CalloutKeys.load(given), CalloutKeys.load(f" {given}\n")
    assert (first.issuer, first.auth_user, first.system_user) == (second.issuer, second.auth_user, second.system_user)
    assert first.issuer == bytes(nkeys.from_seed(bytearray(given.encode())).public_key).decode()
    assert len({first.issuer[1:], first.auth_user[1:], first.system_user[1:]}) == 3


def test_what_it_signs_is_verified_by_the_issuer():
    keys = CalloutKeys.derive("secret")
    pair = nkeys.from_seed(bytearray(keys.auth_seed.encode()))
    assert bytes(pair.public_key).decode() == keys.auth_user
    assert keys.sign(b"text") != CalloutKeys.derive("other").sign(b"text")


@pytest.mark.parametrize(
    ("url", "password"),
    [("nats://u:p@h:4222", "p"), ("nats://u:p%40x@a:1,b:2", "p@x"), ("nats://h:4222", None), ("nats://u@h", None)],
)
def test_keys_follow_from_the_password_in_a_url(url, password):
    keys = CalloutKeys.of_url(url)
    assert (keys and keys.issuer) == (password and CalloutKeys.derive(password).issuer)


@pytest.mark.parametrize("given", ["", "nonsense", "SA" + "A" * 56, "a user's"])
def test_what_is_no_account_seed_is_refused(given):
    if given == "a user's":
        given = seed(nkeys.PREFIX_BYTE_USER)
    with pytest.raises(ConfigError, match=r"nats\.callout_seed"):
        CalloutKeys.load(given)

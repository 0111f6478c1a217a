"""What an idempotency key may be, and what its ids follow from."""

from __future__ import annotations

import itertools

import pytest

from iotplatform.errors import Rejected
from iotplatform.roles.ingest.idempotency import IdempotencyKey


@pytest.mark.parametrize("key", [b"a", b"x" * 64, b'"8e03978e-40d5-43dd-bc93-6894a57f9324"', b"!~"])
def test_keys(key):
    assert IdempotencyKey.of(key, b"{}").key == key


@pytest.mark.parametrize(
    "key", [b"", b"x" * 65, b"a b", b"a\n", b"a\x7f", b"\x00", "ä".encode(), "ä".encode("latin-1")]
)
def test_no_keys(key):
    with pytest.raises(Rejected) as caught:
        IdempotencyKey.of(key, b"{}")
    assert caught.value.kind == "invalid"
    assert [fault.field for fault in caught.value.faults] == ["Idempotency-Key"]


def test_an_id_follows_from_epoch_partition_and_key_and_betrays_no_key():
    keys = (b"1", b"11", b"2")
    ids = {
        IdempotencyKey.of(key, b"").part(epoch, partition).message_id
        for key, epoch, partition in itertools.product(keys, (1, 11, 12), (0, 1, 2))
    }
    assert len(ids) == 27
    assert IdempotencyKey.of(b"1", b"a").part(1, 0).message_id == IdempotencyKey.of(b"1", b"b").part(1, 0).message_id
    assert b"secret-key".hex() not in IdempotencyKey.of(b"secret-key", b"").part(1, 0).message_id


def test_a_fingerprint_is_of_the_body_and_of_whom_a_token_speaks_for():
    """Two devices that leave their ids out may send the same bytes."""
    bodies = itertools.product((b"{}", b"{} ", b"1"), ("", "pump", "1"))
    assert len({IdempotencyKey.of(b"k", body, device).fingerprint for body, device in bodies}) == 9
    assert IdempotencyKey.of(b"k", b"{}").fingerprint == IdempotencyKey.of(b"l", b"{}").fingerprint

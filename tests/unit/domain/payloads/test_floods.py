"""Bodies that are small, and were made to become large or slow."""

from __future__ import annotations

import json
import struct
import tracemalloc

import pytest

from iotplatform.domain import device_csv
from iotplatform.domain.mappings.extraction import MAX_PATH
from iotplatform.domain.payloads import admission, line_protocol
from iotplatform.domain.payloads.cbor import NotCbor, decode_cbor
from iotplatform.domain.payloads.draft import flatten
from iotplatform.domain.payloads.formats import JSON, decode
from iotplatform.errors import Rejected

LONG = "k" * 100_000


def test_many_keys_behind_a_long_one_are_not_put_together() -> None:
    tree = {LONG: {str(number): 1 for number in range(10_000)}}
    tracemalloc.start()
    leaves, wrong = flatten(tree)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert leaves == {}
    assert len(wrong) == 1
    assert peak < 1_000_000


def test_nor_by_a_whole_body() -> None:
    values = {LONG: {str(number): 1 for number in range(10_000)}}
    body = json.dumps({"organization_id": "acme", "device_id": "d", "values": values}).encode()
    tracemalloc.start()
    with pytest.raises(Rejected):
        decode(JSON, body, arrived_at=0).require_all()
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 20_000_000


def test_a_name_as_long_as_it_may_be_is_still_one() -> None:
    leaves, wrong = flatten({"a" * 255: {"b" * 256: 1}})
    assert (list(leaves), wrong) == ([f"{'a' * 255}.{'b' * 256}"], [])
    assert MAX_PATH >= 512


def test_keys_of_cbor_that_were_chosen_for_their_hashes_are_refused() -> None:
    """All multiples of 2^61 - 1 have the hash 0."""
    prime = (1 << 61) - 1
    keys = [b"\xc2\x50" + (number * prime).to_bytes(16, "big") + b"\x01" for number in range(1, 50)]
    body = b"\xb9" + struct.pack(">H", len(keys)) + b"".join(keys)
    with pytest.raises(NotCbor, match="whole number of at most"):
        decode_cbor(body)


def test_what_strangers_send_is_not_remembered_when_it_is_long() -> None:
    before = admission._sensor_fault.cache_info().currsize
    for number in range(50):
        assert admission.known_sensor_fault(f"{LONG}{number}") is not None
        assert admission.known_identifier_fault(f"{LONG}{number}") is not None
    assert admission._sensor_fault.cache_info().currsize == before
    heads = line_protocol._known_head.cache_info().currsize
    list(line_protocol.read_lines(f"m,tag={LONG} value=1".encode(), 0, None))
    assert line_protocol._known_head.cache_info().currsize == heads


def test_a_table_of_devices_has_few_columns() -> None:
    header = ",".join(["id", *(f"metadata.m{number}" for number in range(5_000))])
    with pytest.raises(Rejected):
        device_csv.read_devices(f"{header}\nx\n".encode())

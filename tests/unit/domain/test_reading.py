"""The block: what is stored in streams, and outlives the code that wrote it."""

from __future__ import annotations

import contextlib
import math

import msgspec
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from iotplatform.domain.reading import (
    FORMAT_VERSION,
    Reading,
    UnreadableBlock,
    decode_block,
    encode_readings,
    join_block,
)

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
values = st.booleans() | st.floats(allow_nan=False, allow_infinity=False) | texts
readings = st.builds(Reading, texts, texts, values, st.integers(0, 2**63 - 1))
chunkings = st.lists(st.lists(readings, max_size=20), max_size=8)


def block_of(chunks):
    return join_block([encode_readings(chunk) for chunk in chunks], sum(map(len, chunks)))


def same(left, right):
    """Equal, and of equal kinds: True is no 1.0, and -0.0 no 0.0."""
    return repr(left) == repr(right)


@given(chunkings)
def test_chunks_of_many_requests_make_one_block(chunks):
    assert same(decode_block(block_of(chunks)), [reading for chunk in chunks for reading in chunk])


@given(chunkings)
def test_a_block_is_plain_msgpack(chunks):
    """What others (and later versions) can read: an array of the version and an array of readings."""
    block = block_of(chunks)
    expected = [list(msgspec.structs.astuple(reading)) for chunk in chunks for reading in chunk]
    assert msgspec.msgpack.decode(block) == [FORMAT_VERSION, expected]
    assert block == msgspec.msgpack.encode([FORMAT_VERSION, expected])


# MessagePack has another head for 16 readings, and another for 65,536.
@pytest.mark.parametrize("sizes", [[15], [16], [17], [15, 1], [1] * 15, [1] * 16, [65_535], [65_536], [65_535, 1], []])
def test_where_the_encoding_of_the_count_changes(sizes):
    chunks = [[Reading("d", "s", float(number), number) for number in range(size)] for size in sizes]
    found = decode_block(block_of(chunks))
    assert found == [reading for chunk in chunks for reading in chunk]
    assert len(found) == sum(sizes)


def test_the_kinds_of_values_stay_apart():
    given_values = [True, False, 1.0, 0.0, -0.0, "1", "true", "", 1e308, 5e-324]
    block = block_of([[Reading("d", "s", value, 0) for value in given_values]])
    found = [reading.value for reading in decode_block(block)]
    assert same(found, given_values)
    assert math.copysign(1, found[4]) == -1


@given(st.binary(max_size=200))
@example(b"")
@example(b"\x92")
@example(b"\x92\x01\xdd\xff\xff\xff\xff")
@example(b"\x92\x01\x91\x94\xa1\xff\xa1s\x01\x00")  # text that is no UTF-8
@example(b"\x91" * 5_000)  # deeper than any stack
@example(b"\x93\x01\x90" + b"\x91" * 5_000)
@example(msgspec.msgpack.encode({"version": 1, "readings": []}))
@example(msgspec.msgpack.encode([1, [["d", "s", None, 0]]]))
@example(msgspec.msgpack.encode([1, [["d", "s", 1.0]]]))
@example(msgspec.msgpack.encode([1, [["d", "s", 1.0, 1.5]]]))
@example(msgspec.msgpack.encode([1, [["d", 5, 1.0, 1]]]))
def test_garbage_is_unreadable_and_nothing_else(garbage):
    try:
        found = decode_block(garbage)
    except UnreadableBlock:
        return
    assert all(isinstance(reading, Reading) for reading in found)


@given(chunkings, st.data())
def test_a_damaged_block_is_unreadable_or_another_block(chunks, data):
    block = bytearray(block_of(chunks))
    place = data.draw(st.integers(0, len(block) - 1))
    block[place] = data.draw(st.integers(0, 255))
    with contextlib.suppress(UnreadableBlock):
        decode_block(bytes(block))


@given(chunkings, st.data())
def test_a_block_that_is_cut_off_is_unreadable(chunks, data):
    block = block_of(chunks)
    with pytest.raises(UnreadableBlock):
        decode_block(block[: data.draw(st.integers(0, len(block) - 1))])


def test_something_behind_the_block_makes_it_unreadable():
    with pytest.raises(UnreadableBlock):
        decode_block(block_of([[Reading("d", "s", 1.0, 1)]]) + b"\x00")


@pytest.mark.parametrize("version", [0, 2, 77])
def test_a_block_of_another_version_says_so(version):
    block = msgspec.msgpack.encode([version, [["d", "s", 1.0, 1]]])
    with pytest.raises(UnreadableBlock, match=f"block format {version} is unknown"):
        decode_block(block)

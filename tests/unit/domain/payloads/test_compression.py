"""Compressed bodies: what comes out is bounded, and nothing that is cut off is taken for whole."""

from __future__ import annotations

import gzip
import tracemalloc
import zlib

import pytest
from backports import zstd
from hypothesis import example, given
from hypothesis import strategies as st

from iotplatform.domain.payloads.compression import MAX_MEMBERS, decompress
from iotplatform.errors import Rejected

MOST = 1 << 20
COMPRESS = {"gzip": gzip.compress, "zstd": zstd.compress}
both = pytest.mark.parametrize("encoding", COMPRESS)


def refused(body, encoding):
    with pytest.raises(Rejected) as caught:
        decompress(body, encoding, MOST)
    return caught.value.kind


@both
@given(parts=st.lists(st.binary(max_size=500), min_size=1, max_size=3))
def test_what_went_in_comes_out(encoding, parts):
    assert decompress(b"".join(map(COMPRESS[encoding], parts)), encoding, MOST) == b"".join(parts)


@both
@given(body=st.binary(max_size=200), cut=st.integers(1, 30))
def test_what_is_cut_off_is_malformed(encoding, body, cut):
    compressed = COMPRESS[encoding](body)
    assert refused(compressed[:-cut], encoding) == "malformed"


@both
@given(body=st.binary(max_size=100))
@example(b"")
@example(b"{}")
def test_arbitrary_bytes_never_crash(encoding, body):
    try:
        decompress(body, encoding, MOST)
    except Rejected as error:
        refusal = error
        assert refusal.kind in {"malformed", "too_large"}


@both
def test_the_bound_is_exact(encoding):
    assert len(decompress(COMPRESS[encoding](b"x" * MOST), encoding, MOST)) == MOST
    assert refused(COMPRESS[encoding](b"x" * (MOST + 1)), encoding) == "too_large"
    halves = COMPRESS[encoding](b"x" * MOST) + COMPRESS[encoding](b"x")
    assert refused(halves, encoding) == "too_large"


@both
def test_a_bomb_takes_no_memory(encoding):
    bomb = COMPRESS[encoding](b"\0" * (64 << 20))
    tracemalloc.start()
    try:
        assert refused(bomb, encoding) == "too_large"
        assert tracemalloc.get_traced_memory()[1] < 8 << 20
    finally:
        tracemalloc.stop()


@both
def test_the_number_of_parts_is_bounded(encoding):
    empty = COMPRESS[encoding](b"")
    assert decompress(empty * MAX_MEMBERS, encoding, MOST) == b""
    assert refused(empty * (MAX_MEMBERS + 1), encoding) == "malformed"


def test_a_frame_that_asks_for_a_huge_window_is_refused():
    options = {zstd.CompressionParameter.window_log: 27, zstd.CompressionParameter.enable_long_distance_matching: 1}
    compressor = zstd.ZstdCompressor(options=options)
    assert refused(compressor.compress(b"x" * 1000) + compressor.flush(), "zstd") == "malformed"


@pytest.mark.parametrize("encoding", ["br", "deflate", "gzip, gzip", "GZIP"])
def test_other_encodings_are_not_supported(encoding):
    assert refused(zlib.compress(b"{}"), encoding) == "unsupported_media"


def test_identity_is_nothing():
    assert decompress(b"{}", "identity", MOST) == b"{}"

"""CBOR bodies: the shapes of JSON, in another encoding."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from iotplatform.domain.payloads.admission import Sender
from iotplatform.domain.payloads.cbor import NotCbor, decode_cbor
from iotplatform.domain.payloads.draft import Draft
from iotplatform.domain.payloads.json_shapes import drafts_of
from iotplatform.errors import Rejected


def read_cbor(body: bytes, _: int, __: Sender | None) -> Iterator[Draft]:
    """Drafts of a body of CBOR.

    Raises:
        Rejected: `malformed`, when it is no CBOR, or has maps whose keys are no text.
    """
    decoded = cbor_of(body)
    _check_keys(decoded)
    return drafts_of(decoded)


def cbor_of(body: bytes) -> Any:
    try:
        return decode_cbor(body)
    except NotCbor as error:
        raise Rejected("malformed", f"the body is not CBOR: {error}") from None


def _check_keys(item: Any) -> None:
    # The decoder has bounded the depth.
    if isinstance(item, dict):
        if not all(isinstance(key, str) for key in item):
            raise Rejected("malformed", "the body is not CBOR for readings: a map has a key that is no text")
        for inner in item.values():
            _check_keys(inner)
    elif isinstance(item, list):
        for inner in item:
            _check_keys(inner)

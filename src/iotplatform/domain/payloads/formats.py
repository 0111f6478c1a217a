"""The table of formats: what a Content-Type or the last level of a topic stands for."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Final

import msgspec

from iotplatform.domain.payloads.admission import Decoded, Defaults, Sender, admit
from iotplatform.domain.payloads.cbor_shapes import read_cbor
from iotplatform.domain.payloads.draft import Draft
from iotplatform.domain.payloads.json_shapes import read_json
from iotplatform.domain.payloads.line_protocol import read_lines
from iotplatform.domain.payloads.ndjson import read_ndjson
from iotplatform.domain.payloads.senml import read_senml, read_senml_cbor, read_senml_json


class Format(msgspec.Struct, frozen=True):
    """`read` makes drafts of a body that arrived at a time (microseconds), or raises Rejected (malformed).

    `levels` are last levels of topics: `iot/{org}/{device}/{level}`.
    """

    name: str
    media_types: tuple[str, ...]
    levels: tuple[str, ...]
    read: Callable[[bytes, int, Sender | None], Iterable[Draft]]
    # Its elements mean the same when they are written as JSON, and alone.
    is_json_shaped: bool = False


JSON: Final = Format("json", ("application/json", "text/json"), ("telemetry", "json"), read_json, is_json_shaped=True)
LINE_PROTOCOL: Final = Format("line protocol", (), ("line",), read_lines)

FORMATS: Final = (
    JSON,
    Format("ndjson", ("application/x-ndjson", "application/ndjson"), ("ndjson",), read_ndjson, is_json_shaped=True),
    Format("senml", (), ("senml",), read_senml),
    Format("senml+json", ("application/senml+json",), (), read_senml_json),
    Format("senml+cbor", ("application/senml+cbor",), (), read_senml_cbor),
    Format("cbor", ("application/cbor",), ("cbor",), read_cbor, is_json_shaped=True),
    LINE_PROTOCOL,
)
BY_MEDIA_TYPE: Final = {media_type: known for known in FORMATS for media_type in known.media_types}
BY_LEVEL: Final = {level: known for known in FORMATS for level in known.levels}


def decode(
    known: Format, body: bytes, *, arrived_at: int, sender: Sender | None = None, defaults: Defaults | None = None
) -> Decoded:
    """The readings of a body and what is bad in it; see `Decoded.require_all` for who takes all or nothing.

    Raises:
        Rejected: nothing of it can be used: it is not of this format (`malformed`), speaks for somebody else than
            `sender` (`forbidden`), names several organizations or holds nothing (`invalid`).
    """
    return admit(known.read(body, arrived_at, sender), arrived_at, sender, defaults)

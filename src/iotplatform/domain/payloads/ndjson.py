"""NDJSON: one element a line, in the shapes of JSON. Lines that hold nothing don't count."""

from __future__ import annotations

from collections.abc import Iterator

from iotplatform.domain.payloads.admission import Sender
from iotplatform.domain.payloads.draft import Draft
from iotplatform.domain.payloads.json_shapes import decode_json, draft_of
from iotplatform.errors import Rejected


def read_ndjson(body: bytes, _: int, __: Sender | None) -> Iterator[Draft]:
    index = 0
    for line in body.split(b"\n"):
        text = line.strip()
        if not text:
            continue
        try:
            yield draft_of(decode_json(text), index)
        except Rejected as error:
            yield Draft.unreadable(index, text, error.detail.replace("the body", "the line", 1), malformed=True)
        index += 1

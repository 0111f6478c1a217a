"""InfluxDB's line protocol, and where its points go here.

The device is the tag `device`, else the tag `host`, else the measurement. A sensor is called `measurement.field`, with
the other tags behind it in their order, `,tag=value`: points that are different series there are different series here.
Commas and backslashes inside of these names are escaped by a backslash, and `=` in those of tags, so that no two sets
of tags look the same.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Iterator
from typing import Final

import msgspec

from iotplatform.domain.identifiers import device_id_of
from iotplatform.domain.payloads.admission import Sender
from iotplatform.domain.payloads.draft import Draft
from iotplatform.domain.reading import Value
from iotplatform.errors import Rejected

# How many nanoseconds each unit has: those of the newer and of the older interface.
PRECISIONS: Final = {
    "ns": 1,
    "n": 1,
    "us": 1_000,
    "u": 1_000,
    "ms": 1_000_000,
    "s": 1_000_000_000,
    "m": 60_000_000_000,
    "h": 3_600_000_000_000,
}
_TRUE: Final = frozenset({"t", "T", "true", "True", "TRUE"})
_FALSE: Final = frozenset({"f", "F", "false", "False", "FALSE"})
_INT64: Final = 1 << 63

_NAME: Final = r"(?:\\[^\n]|[^\\,= \n])+"
_STRING: Final = r'"(?:\\.|[^"\\])*"'
_line = re.compile(
    rf"[ \t]*(?P<head>(?:\\[^\n]|[^\\, \t\n#])(?:\\[^\n]|[^\\, \n])*(?:,{_NAME}={_NAME})*) +"
    rf'(?P<fields>{_NAME}=(?:{_STRING}|[^", \n\r]+)(?:,{_NAME}=(?:{_STRING}|[^", \n\r]+))*)'
    r"(?: +(?P<time>[^ \n\r]+))?[ \t\r]*(?:\n|\Z)",
    re.DOTALL,
)
_tag = re.compile(rf",({_NAME})=({_NAME})")
_field = re.compile(rf'({_NAME})=({_STRING}|[^", \n\r]+),?', re.DOTALL)
_float = re.compile(r"[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?", re.ASCII)
_whole = re.compile(r"-?\d+", re.ASCII)
_escaped = re.compile(r"\\([,= ])")
_escaped_in_measurement = re.compile(r"\\([, ])")
_escaped_in_string = re.compile(r'\\(["\\])')


class Head(msgspec.Struct, frozen=True):
    """What the part of a line before its fields says. `name` is the device's, where that could not be its id."""

    device_id: str
    name: str | None
    prefix: str
    suffix: str


def read_lines(body: bytes, _: int, sender: Sender | None, precision: str = "ns") -> Iterator[Draft]:
    """Drafts of lines; `precision` is the unit of their times.

    Raises:
        Rejected: `malformed`, when it is no UTF-8.
    """
    try:
        text = body.decode()
    except UnicodeDecodeError as error:
        raise Rejected("malformed", f"the body is no line protocol: {error}") from None
    return _drafts(text, sender.device_id if sender else None, PRECISIONS[precision])


def _drafts(text: str, own_device: str | None, nanoseconds: int) -> Iterator[Draft]:
    at = index = 0
    while at < len(text):
        found = _line.match(text, at)
        if found:
            yield _draft(found, index, own_device, nanoseconds)
            at = found.end()
        else:
            end = text.find("\n", at)
            end = len(text) if end < 0 else end
            line = text[at:end].strip()
            at = end + 1
            if not line or line.startswith("#"):
                continue
            yield Draft.unreadable(index, line, _explain(line), malformed=True)
        index += 1


def _draft(found: re.Match[str], index: int, own_device: str | None, nanoseconds: int) -> Draft:
    text = found["head"]
    # What is remembered is short: the heads of strangers would fill the memory otherwise.
    head = _known_head(text, own_device) if len(text) <= MAX_KNOWN_HEAD else _head(text, own_device)
    draft = Draft(index, found[0].strip(), device_id=head.device_id, device_name=head.name, time_field="time")
    try:
        if found["time"] is not None:
            draft.at = _time(found["time"], nanoseconds)
        fields = found["fields"]
        if "\\" in fields or '"' in fields:
            pairs = [(_escaped.sub(r"\1", name), value) for name, value in _field.findall(fields)]
        else:
            pairs = [(name, value) for name, _, value in (field.partition("=") for field in fields.split(","))]
        for name, text in pairs:
            draft.values[f"{head.prefix}{_escape(name)}{head.suffix}"] = _value(name, text)
    except ValueError as error:
        draft.is_unreadable = draft.is_malformed = True
        draft.blame(None, str(error))
    return draft


def _head(text: str, own_device: str | None) -> Head:
    """With a device of one's own, a host or a measurement of another name is no other device; a tag `device` is."""
    measurement, comma, _ = text.partition(",")
    if "\\" in text:
        raw = re.match(r"(?:\\.|[^\\,])*", text)
        raw_measurement = raw[0] if raw else ""
        measurement, comma = _escaped_in_measurement.sub(r"\1", raw_measurement), text[len(raw_measurement) :]
        pairs = _tag.findall(comma)
    else:
        pairs = _tag.findall(text[len(measurement) :]) if comma else []
    tags = {_escaped.sub(r"\1", name): _escaped.sub(r"\1", value) for name, value in pairs}
    if "device" in tags:
        name = tags.pop("device")
        device_id = device_id_of(name)
    elif own_device is not None:
        name, device_id = "", own_device
        if "host" in tags and device_id_of(tags["host"]) == own_device:
            del tags["host"]
    else:
        name = tags.pop("host", measurement)
        device_id = device_id_of(name)
    suffix = "".join(f",{_escape_tag(tag)}={_escape_tag(tags[tag])}" for tag in sorted(tags))
    changed = name if name and name != device_id else None
    return Head(device_id, changed, f"{_escape(measurement)}.", suffix)


MAX_KNOWN_HEAD: Final = 512
_known_head = functools.lru_cache(maxsize=16_384)(_head)


def _escape(name: str) -> str:
    return name.replace("\\", "\\\\").replace(",", "\\,") if "\\" in name or "," in name else name


def _escape_tag(text: str) -> str:
    return _escape(text).replace("=", "\\=")


def _value(name: str, text: str) -> Value:
    last = text[-1]
    if last == '"':
        return _escaped_in_string.sub(r"\1", text[1:-1])
    if text in _TRUE:
        return True
    if text in _FALSE:
        return False
    if last in "iu":
        if not _whole.fullmatch(text, 0, len(text) - 1) or len(text) > 21:
            raise ValueError(f"invalid field format: {name[:80]}={text[:80]}")
        whole = int(text[:-1])
        if not (0 <= whole < 2 * _INT64 if last == "u" else -_INT64 <= whole < _INT64):
            raise ValueError(f"the number of {name[:80]} is out of range")
        return float(whole)
    if not _float.fullmatch(text):
        raise ValueError(f"invalid field format: {name[:80]}={text[:80]}")
    number = float(text)
    if number in {float("inf"), float("-inf")}:
        raise ValueError(f"the number of {name[:80]} is out of range")
    return number


def _time(text: str, nanoseconds: int) -> int:
    if not _whole.fullmatch(text) or len(text) > 20 or abs(int(text)) >= _INT64:
        raise ValueError(f"bad timestamp: {text[:80]}")
    return int(text) * nanoseconds // 1_000


def _explain(line: str) -> str:
    """What is wrong with a line that is none, in InfluxDB's words where it has some."""
    head = re.match(r"(?:\\.|[^\\ ])+ +", line)
    if line.startswith(","):
        return "missing measurement"
    if not head:
        return "missing fields"
    if line.count('"') % 2:
        return "unbalanced quotes"
    if re.search(rf",(?!{_NAME}={_NAME})", head[0].rstrip()):
        return "missing tag value"
    return "invalid field format"

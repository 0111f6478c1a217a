"""JSON: the shapes that an element may have, by what is in it, whichever format it was decoded from.

Of the platform: one reading, `{"sensor_name", "value"}`, or several of one device at one time, `{"values": {}}`. Of
others: ThingsBoard's `{"ts", "values"}`, and a plain object of values such as `{"temp1": 21.5, "battery": {"v": 3.6}}`.
All but the first may be nested: the names of sensors are then dotted.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final

import msgspec

from iotplatform.domain.payloads.admission import Sender
from iotplatform.domain.payloads.draft import OUT_OF_RANGE, Draft, flatten, take_values
from iotplatform.domain.reading import Value
from iotplatform.errors import Fault, Rejected

_NAMES: Final = frozenset({"organization_id", "device_id", "timestamp"})
_OURS: Final = frozenset({"sensor_name", "value", "values"})
_THINGSBOARD: Final = frozenset({"organization_id", "device_id", "ts", "values"})
_path = re.compile(r" - at `\$(?:\.([A-Za-z_]+))?")


class Entry(msgspec.Struct, forbid_unknown_fields=True):
    """One element in a shape of the platform."""

    organization_id: str | None = None
    device_id: str | None = None
    sensor_name: str | None = None
    value: Value | msgspec.UnsetType = msgspec.UNSET
    timestamp: int | float | str | None = None
    values: dict[str, Value] | None = None


class _Names(msgspec.Struct):
    organization_id: str | None = None
    device_id: str | None = None
    timestamp: int | float | str | None = None


def read_json(body: bytes, _: int, __: Sender | None) -> Iterator[Draft]:
    """Drafts of a body of JSON.

    Raises:
        Rejected: `malformed`, when it is no JSON.
    """
    return drafts_of(decode_json(body))


def decode_json(body: bytes, number: Callable[[str], Any] = float) -> Any:
    """Plain objects; `number` makes one of a literal with a fraction or an exponent, or of one that is too large.

    Raises:
        Rejected: `malformed`.
    """
    try:
        return msgspec.json.Decoder(float_hook=number).decode(body)
    except msgspec.ValidationError:  # an integer beyond every bound
        return _decode_boundless(body, number)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise _malformed(error) from None


def _decode_boundless(body: bytes, number: Callable[[str], Any]) -> Any:
    try:
        decoded = json.loads(body.decode(), parse_int=number, parse_float=number, parse_constant=_refuse)
        # Half a surrogate pair is no character, and what JSON allows here nothing else would take.
        msgspec.json.encode(decoded)
    except (ValueError, RecursionError) as error:
        raise _malformed(error) from None
    return decoded


def _refuse(constant: str) -> float:
    raise ValueError(f"{constant} is no number")


def _malformed(error: Exception) -> Rejected:
    return Rejected("malformed", f"the body is not JSON: {error}")


def drafts_of(decoded: Any) -> Iterator[Draft]:
    """A draft for each element of what some decoder has made of a body."""
    if isinstance(decoded, list):
        for index, element in enumerate(decoded):
            yield draft_of(element, index)
    else:
        yield draft_of(decoded, None)


def draft_of(element: Any, index: int | None) -> Draft:
    if not isinstance(element, dict):
        return Draft.unreadable(index, element, f"Expected `object`, got `{_kind_of(element)}`")
    draft = Draft(index, element)
    if "ts" in element and "values" in element and element.keys() <= _THINGSBOARD:
        _take_thingsboard(draft, element)
    elif element.keys() & _OURS or element.keys() <= _NAMES:
        _take_ours(draft, element)
    elif _take_names(draft, element):
        take_values(draft, {key: value for key, value in element.items() if key not in _NAMES})
    return draft


def _take_names(draft: Draft, element: Mapping[str, Any]) -> bool:
    try:
        names = msgspec.convert(element, _Names)
    except msgspec.ValidationError as error:
        draft.faults.append(_fault_of(error, draft.index))
        draft.is_unreadable = True
        return False
    draft.organization_id, draft.device_id, draft.timestamp = names.organization_id, names.device_id, names.timestamp
    if isinstance(names.timestamp, float) and math.isinf(names.timestamp):
        draft.timestamp = None
        draft.blame("timestamp", OUT_OF_RANGE)
    return True


def _take_thingsboard(draft: Draft, element: Mapping[str, Any]) -> None:
    draft.name_field, draft.prefix, draft.time_field = "values", "values.", "ts"
    at, values = element["ts"], element["values"]
    if not _take_names(draft, {key: element[key] for key in element.keys() & _NAMES}):
        return
    if isinstance(at, bool) or not isinstance(at, int | float) or not math.isfinite(at) or abs(at) >= 1e17:
        draft.blame("ts", "must be a time in milliseconds since 1970")
    else:
        draft.at = round(at * 1_000)
    if isinstance(values, dict):
        take_values(draft, values)
    else:
        draft.blame("values", f"Expected `object`, got `{_kind_of(values)}`")


def _take_ours(draft: Draft, element: Mapping[str, Any]) -> None:
    values = element.get("values")
    if isinstance(values, dict) and any(isinstance(value, dict) for value in values.values()):
        leaves, wrong = flatten(values)
        for name, detail in wrong:
            draft.blame(f"values.{name}", detail)
        element = {**element, "values": leaves}
    try:
        entry = msgspec.convert(element, Entry)
    except msgspec.ValidationError as error:
        draft.faults.append(_fault_of(error, draft.index))
        draft.is_unreadable = True
        return
    draft.organization_id, draft.device_id, draft.timestamp = entry.organization_id, entry.device_id, entry.timestamp
    infinite = _infinite_fields(entry)
    for field in infinite:
        draft.blame(field, OUT_OF_RANGE)
    if "timestamp" in infinite:
        draft.timestamp = None
    if not draft.faults:
        _take_entry(draft, entry)


def _take_entry(draft: Draft, entry: Entry) -> None:
    if entry.values is not None:
        draft.name_field, draft.prefix = "values", "values."
        if entry.value is not msgspec.UNSET or entry.sensor_name is not None:
            draft.blame("values", "can't stand beside sensor_name and value")
        elif not entry.values:
            draft.blame("values", "must hold at least one value")
        draft.values = entry.values
    elif entry.sensor_name is None:
        draft.blame("sensor_name", "is required")
    elif isinstance(entry.value, msgspec.UnsetType):
        draft.blame("value", "is required")
    else:
        draft.name_field, draft.value_field = "sensor_name", "value"
        draft.values = {entry.sensor_name: entry.value}


def _infinite_fields(entry: Entry) -> list[str]:
    """Fields with a number that is out of range, which JSON itself allows and a float has no other place for."""
    given: list[tuple[str, object]] = [("value", entry.value), ("timestamp", entry.timestamp)]
    given += [("values", value) for value in (entry.values or {}).values()]
    return [field for field, value in given if isinstance(value, float) and math.isinf(value)]


def _fault_of(error: msgspec.ValidationError, index: int | None) -> Fault:
    text = str(error)
    if unknown := re.search(r"unknown field `(.*)`", text, re.DOTALL):
        return Fault("is unknown", index, unknown.group(1)[:80])
    found = _path.search(text)
    field = found.group(1) if found else None
    return Fault(text.split(" - at ", maxsplit=1)[0], index, field)


def _kind_of(element: Any) -> str:
    kinds = {dict: "object", list: "array", str: "str", bool: "bool", int: "int", float: "float", type(None): "null"}
    return kinds.get(type(element), type(element).__name__)

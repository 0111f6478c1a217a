"""SenML (RFC 8428): records whose base fields hold for those behind them, resolved to readings.

A sensor is called by the resolved name; the sum of a record is a sensor of its own, `<name>.sum`. Numbers are added as
decimals, so that a base time and an offset make the microsecond that they say.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Callable, Iterator, Mapping
from decimal import Decimal
from typing import Any, Final

from iotplatform.domain.payloads.admission import Sender
from iotplatform.domain.payloads.cbor_shapes import cbor_of
from iotplatform.domain.payloads.draft import OUT_OF_RANGE, Draft
from iotplatform.domain.payloads.json_shapes import decode_json
from iotplatform.errors import Fault, Rejected

VERSION: Final = 10
# Times below are relative to now.
ABSOLUTE_FROM_S: Final = 1 << 28
_MAX_S: Final = 10**12
_LABELS: Final[Mapping[Any, str]] = {
    -1: "bver",
    -2: "bn",
    -3: "bt",
    -4: "bu",
    -5: "bv",
    -6: "bs",
    0: "n",
    1: "u",
    2: "v",
    3: "vs",
    4: "vb",
    5: "s",
    6: "t",
    7: "ut",
    8: "vd",
}
_BASES: Final = frozenset({"bn", "bt", "bu", "bv", "bs"})
_NUMBERS: Final = frozenset({"bt", "bv", "bs", "v", "s", "t", "ut", "bver"})
_TEXTS: Final = frozenset({"bn", "bu", "n", "u", "vs", "vd"})
_VALUES: Final = ("v", "vs", "vb", "vd")
_name = re.compile(r"[A-Za-z0-9][A-Za-z0-9:./_-]*", re.ASCII)
_BROKEN: Final = object()


def read_senml(body: bytes, arrived_at: int, sender: Sender | None) -> Iterator[Draft]:
    """JSON or CBOR, told by the first byte: for topics, which have one level for both."""
    first = body.lstrip(b" \t\r\n")[:1]
    return (read_senml_json if first in {b"[", b"{", b""} else read_senml_cbor)(body, arrived_at, sender)


def read_senml_json(body: bytes, arrived_at: int, _: Sender | None) -> Iterator[Draft]:
    """Drafts of a pack of SenML in JSON.

    Raises:
        Rejected: `malformed`, when it is no JSON; `invalid`, when it is of another version.
    """
    return _resolve(decode_json(body, _decimal), arrived_at)


def read_senml_cbor(body: bytes, arrived_at: int, _: Sender | None) -> Iterator[Draft]:
    pack = cbor_of(body)
    if isinstance(pack, list):
        pack = [
            {_LABELS.get(key, key): value for key, value in record.items()} if isinstance(record, dict) else record
            for record in pack
        ]
    return _resolve(pack, arrived_at)


def _decimal(text: str) -> Decimal:
    try:
        return Decimal(text)
    except ArithmeticError:  # an exponent beyond every bound
        return Decimal(0) if float(text) == 0 else Decimal("Infinity")


def _resolve(pack: Any, arrived_at: int) -> Iterator[Draft]:
    if not isinstance(pack, list):
        fault = Fault("must be an array of records")
        raise Rejected("invalid", "the body is no SenML pack", faults=(fault,))
    _check_versions(pack)
    return _drafts(pack, arrived_at)


def _check_versions(pack: list[Any]) -> None:
    """One version holds for a whole pack, so a wrong one leaves nothing to be used."""
    for index, record in enumerate(pack):
        if isinstance(record, dict) and record.get("bver", VERSION) != VERSION:
            fault = Fault(f"must be {VERSION}, the version that is understood", index, "bver")
            raise Rejected("invalid", "the pack is of another version of SenML", faults=(fault,))


def _drafts(pack: list[Any], arrived_at: int) -> Iterator[Draft]:
    bases: dict[str, Any] = {}
    for index, record in enumerate(pack):
        if not isinstance(record, dict):
            yield Draft.unreadable(index, record, "must be a record")
            continue
        draft = Draft(index, record, name_field="n", value_field="v", time_field="t")
        fields = _fields_of(draft, record, bases)
        if draft.faults or not fields.keys() <= _BASES | {"bver"} or not fields:
            _take(draft, fields, bases, arrived_at)
            yield draft


def _fields_of(draft: Draft, record: Mapping[Any, Any], bases: dict[str, Any]) -> dict[str, Any]:
    """The fields that are understood; base fields go to `bases`, as broken when they are wrong."""
    fields: dict[str, Any] = {}
    for key, value in record.items():
        fault, taken = _look_at(key, value)
        if fault:
            draft.blame(str(key), fault)
        elif isinstance(key, str) and key in _KNOWN:
            fields[key] = taken
        if key in _BASES:
            bases[key] = _BROKEN if fault else taken
    return fields


def _look_at(key: Any, value: Any) -> tuple[str | None, Any]:
    if key in _NUMBERS:
        if isinstance(value, bool) or not isinstance(value, int | float | Decimal):
            return "must be a number", None
        return None, Decimal(value)
    if key in _TEXTS:
        if key == "vd" and isinstance(value, bytes):
            return None, base64.urlsafe_b64encode(value).rstrip(b"=").decode()
        if not isinstance(value, str):
            return "must be a text", None
        return ("must be base64url" if key == "vd" and not _is_base64url(value) else None), value
    if key == "vb":
        return (None if isinstance(value, bool) else "must be a boolean"), value
    if isinstance(key, str) and key.endswith("_"):
        # The mark of what may not be ignored.
        return "is not understood, and must be", None
    return None, None


_KNOWN: Final = _NUMBERS | _TEXTS | {"vb"}


def _is_base64url(text: str) -> bool:
    try:
        base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
    except (ValueError, binascii.Error):
        return False
    return True


def _take(draft: Draft, fields: Mapping[str, Any], bases: Mapping[str, Any], arrived_at: int) -> None:
    for base in sorted(bases):
        if bases[base] is _BROKEN and base not in draft.source:
            draft.blame(base, "is wrong in a record before")
    if draft.faults:
        return
    given = [field for field in _VALUES if field in fields]
    if len(given) > 1:
        draft.blame(given[1], f"can't stand beside {given[0]}")
        return
    name = bases.get("bn", "") + fields.get("n", "")
    if not _name.fullmatch(name):
        draft.blame("n", "must, behind its base name, begin with a letter or digit and hold none but A-Z a-z 0-9 -:./_")
        return
    _guarded(draft, "t", lambda: _take_time(draft, fields, bases, arrived_at))
    _guarded(draft, given[0] if given else "v", lambda: _take_values(draft, name, given, fields, bases))
    unit = fields.get("u", bases.get("bu"))
    if unit and name in draft.values:
        draft.units[name] = unit


def _guarded(draft: Draft, field: str, take: Callable[[], None]) -> None:
    """Decimals have bounds of their own."""
    try:
        take()
    except ArithmeticError:
        draft.blame(field, OUT_OF_RANGE)


def _take_time(draft: Draft, fields: Mapping[str, Any], bases: Mapping[str, Any], arrived_at: int) -> None:
    seconds = bases.get("bt", Decimal(0)) + fields.get("t", Decimal(0))
    if not seconds.is_finite() or abs(seconds) > _MAX_S:
        draft.blame("t", OUT_OF_RANGE)
        return
    microseconds = int((seconds * 1_000_000).to_integral_value())
    draft.at = microseconds if seconds >= ABSOLUTE_FROM_S else arrived_at + microseconds


def _take_values(
    draft: Draft, name: str, given: list[str], fields: Mapping[str, Any], bases: Mapping[str, Any]
) -> None:
    if given and given[0] != "v":
        draft.values[name] = fields[given[0]]
        draft.value_field = given[0]
    elif given or "bv" in bases:
        # Of base and value the one that is absent is zero.
        draft.values[name] = float(fields.get("v", Decimal(0)) + bases.get("bv", Decimal(0)))
    if "s" in fields or "bs" in bases:
        draft.values[f"{name}.sum"] = float(fields.get("s", Decimal(0)) + bases.get("bs", Decimal(0)))
    if not draft.values:
        draft.blame("v", "is required, or another value, or a sum")

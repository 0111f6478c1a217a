"""What every format is turned into before anything is checked: one draft for each element of a body."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Final, Self

import msgspec

from iotplatform.domain.identifiers import MAX_SENSOR_BYTES
from iotplatform.domain.reading import Value
from iotplatform.errors import Fault

MAX_DEPTH: Final = 16
MAX_FIELD: Final = 80
TOO_LONG: Final = f"must be at most {MAX_SENSOR_BYTES} bytes of UTF-8"
NO_VALUE: Final = "must be a number, a boolean or a string"
OUT_OF_RANGE: Final = "Number out of range"


class Draft(msgspec.Struct, gc=False):
    """`index` is the element's place in the body, None when it is alone; `source` is the element as it came, for a
    letter. `at` (microseconds) goes before `timestamp`.

    The fields say how the element calls what it holds: one without `value_field` calls every value by its sensor,
    perhaps behind a `prefix`. `device_name` is what a device is called whose name could not be its id.
    """

    index: int | None
    source: Any
    organization_id: str | None = None
    device_id: str | None = None
    device_name: str | None = None
    timestamp: int | float | str | None = None
    at: int | None = None
    values: dict[str, Value] = msgspec.field(default_factory=dict)
    units: dict[str, str] = msgspec.field(default_factory=dict)
    faults: list[Fault] = msgspec.field(default_factory=list)
    time_field: str = "timestamp"
    name_field: str | None = None
    value_field: str | None = None
    prefix: str = ""
    # Its fields could not be read, so nothing can be said of them beside what is in `faults`.
    is_unreadable: bool = False
    is_malformed: bool = False

    @classmethod
    def unreadable(cls, index: int | None, source: Any, detail: str, *, malformed: bool = False) -> Self:
        """For an element of which nothing else is known; `malformed` when it could not even be parsed."""
        draft = cls(index, source, is_unreadable=True, is_malformed=malformed)
        draft.blame(None, detail)
        return draft

    def blame(self, field: str | None, detail: str) -> None:
        self.faults.append(Fault(detail, self.index, None if field is None else field[:MAX_FIELD]))

    def field_of(self, sensor: str) -> str | None:
        """The field of a fault in the value of a sensor."""
        return self.value_field or f"{self.prefix}{sensor}"[:MAX_FIELD] or None


def flatten(tree: Mapping[str, Any]) -> tuple[dict[str, Any], list[tuple[str, str]]]:
    """Nested objects as dotted names, and what is wrong with some of them as (name, detail).

    Only objects are looked into: whether a leaf is a value is for others to say.
    """
    leaves: dict[str, Any] = {}
    wrong: list[tuple[str, str]] = []
    stack: list[tuple[str, int, Iterable[tuple[str, Any]]]] = [("", 0, iter(tree.items()))]
    while stack:
        path, depth, items = stack[-1]
        for key, value in items:
            if len(path) + len(key) > MAX_SENSOR_BYTES:
                # Before it is put together: many keys behind one long one would take as many copies of it.
                wrong.append((f"{path}.{key[:MAX_FIELD]}" if path else key[:MAX_FIELD], TOO_LONG))
                continue
            name = f"{path}.{key}" if path else key
            if isinstance(value, dict) and value:
                if depth + 1 >= MAX_DEPTH:
                    wrong.append((name, f"is nested deeper than {MAX_DEPTH} levels"))
                    continue
                stack.append((name, depth + 1, iter(value.items())))
                break
            if name in leaves:
                wrong.append((name, "is given twice: as a dotted name and as a nested one"))
            else:
                leaves[name] = value
        else:
            stack.pop()
    return leaves, wrong


def take_values(draft: Draft, tree: Mapping[str, Any]) -> None:
    """The leaves of `tree` as the values of a draft, or its faults."""
    leaves, wrong = flatten(tree)
    for name, detail in wrong:
        draft.blame(draft.field_of(name), detail)
    for name, leaf in leaves.items():
        value = value_of(leaf)
        if isinstance(value, Fault):
            draft.blame(draft.field_of(name), value.detail)
        else:
            draft.values[name] = value
    if not leaves and not wrong:
        draft.blame(draft.name_field, "must hold at least one value")


def value_of(leaf: Any) -> Value | Fault:
    """A decoded leaf as a value; numbers become floats."""
    if isinstance(leaf, bool | str):
        return leaf
    if isinstance(leaf, int | float):
        try:
            return float(leaf)
        except OverflowError:
            return Fault(OUT_OF_RANGE)
    return Fault(NO_VALUE)

"""Query parameters that mean the same on several routes."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Annotated, Final

from litestar.params import QueryParameter

from iotplatform.domain.identifiers import identifier_fault, sensor_fault
from iotplatform.domain.timestamps import parse_timestamp, to_datetime
from iotplatform.errors import Fault, Rejected

_NUMBER: Final = re.compile(r"-?\d+(\.\d+)?(e\+?\d+)?", re.IGNORECASE)
_WHOLE: Final = re.compile(r"-?\d{1,30}")

DeviceIds = Annotated[list[str] | None, QueryParameter(description="only these devices; repeatable")]
From = Annotated[str | None, QueryParameter(name="from", description="RFC 3339 or an epoch number, inclusive")]
To = Annotated[str | None, QueryParameter(name="to", description="RFC 3339 or an epoch number, exclusive")]


def parse_time(name: str, text: str | None) -> int | None:
    """Microseconds, or None when the parameter is absent.

    Raises:
        Rejected: it is no time.
    """
    if text is None:
        return None
    try:
        # A whole number stays one: nanoseconds don't fit into a float.
        value = int(text) if _WHOLE.fullmatch(text) else float(text) if _NUMBER.fullmatch(text) else text
        at = parse_timestamp(value)
        to_datetime(at)
    except (ValueError, OverflowError) as error:
        raise _invalid(name, "is no time" if isinstance(error, OverflowError) else str(error)) from error
    return at


def check_device_ids(device_ids: Sequence[str] | None) -> tuple[str, ...]:
    return _checked("device_id", device_ids, identifier_fault)


def check_channel_ids(channel_ids: Sequence[str] | None) -> tuple[str, ...]:
    return _checked("channel_id", channel_ids, identifier_fault)


def check_rule_ids(rule_ids: Sequence[str] | None) -> tuple[str, ...]:
    return _checked("rule_id", rule_ids, identifier_fault)


def check_sensors(sensors: Sequence[str] | None) -> tuple[str, ...]:
    return _checked("sensor", sensors, sensor_fault)


def check_text(name: str, texts: Sequence[str] | None) -> tuple[str, ...]:
    """Text to look for: anything that could be in a name."""
    return _checked(name, texts, sensor_fault)


def _checked(name: str, values: Sequence[str] | None, fault_of: Callable[[str], str | None]) -> tuple[str, ...]:
    for value in values or ():
        fault = fault_of(value)
        if fault is not None:
            raise _invalid(name, fault)
    return tuple(values or ())


def _invalid(name: str, detail: str) -> Rejected:
    return Rejected("invalid", "the query is not valid", faults=(Fault(detail, field=name),))

"""Merge patches (RFC 7396): what a member says is set, `null` removes it, and what isn't named stays as it is."""

from __future__ import annotations

from typing import Any, Final

from iotplatform.domain.identifiers import identifier_fault
from iotplatform.errors import Fault, Rejected

MERGE_PATCH: Final = "application/merge-patch+json"


def merged(target: Any, patch: Any) -> Any:
    """`patch` applied to `target`, neither of which is changed. Both are bounded in depth by who calls."""
    if not isinstance(patch, dict):
        return patch
    result = dict(target) if isinstance(target, dict) else {}
    for name, value in patch.items():
        if value is None:
            result.pop(name, None)
        else:
            result[name] = merged(result.get(name), value)
    return result


def check_path_id(identifier: str, repeated: object) -> None:
    """The id that a PUT gives to what it makes; the body may repeat it.

    Raises:
        Rejected: it can't be one, or the body names another.
    """
    fault = identifier_fault(identifier)
    if fault is not None:
        raise Rejected("invalid", "the id in the path is not valid", faults=(Fault(fault, field="id"),))
    if repeated not in {None, identifier}:
        fault = "must be the id in the path, or be left out"
        raise Rejected("invalid", "the body is not valid", faults=(Fault(fault, field="id"),))

"""Who makes a request, as timelines show it."""

from __future__ import annotations

from typing import Any

from litestar import Request


def principal_name(request: Request[Any, Any, Any]) -> str:
    """In open mode everybody is the same to us."""
    principal = request.scope["state"].get("principal")
    return str(getattr(principal, "name", "anonymous"))

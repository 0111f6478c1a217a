"""Who asks is told to the database before a route changes anything; what no row shows is written down after it."""

from __future__ import annotations

import uuid
from collections.abc import Awaitable, Callable
from contextvars import ContextVar
from typing import Any, Final

import msgspec
import structlog
from litestar import Request, Response

from iotplatform.adapters.postgres import audit
from iotplatform.adapters.postgres.actor import Actor, act_for
from iotplatform.adapters.postgres.connection import Database
from iotplatform.errors import Unavailable
from iotplatform.roles.management.access import access_of, principal_of

log = structlog.get_logger()

CHANGING: Final = frozenset({"POST", "PUT", "PATCH", "DELETE"})
# What is sent along is written down up to here: enough for a list of ids, and never a file.
MAX_BODY_BYTES: Final = 4_096

AfterRequest = Callable[[Response[Any]], Awaitable[Response[Any]]]


class _Asked(msgspec.Struct, frozen=True):
    actor: Actor
    action: str
    path: str
    organization_id: str | None
    body: bytes | None


_asked: ContextVar[_Asked | None] = ContextVar("asked", default=None)


async def begin(request: Request[Any, Any, Any]) -> None:
    """Before a route runs: everything it changes is this principal's doing."""
    _asked.set(None)
    act_for(None)
    if request.method not in CHANGING:
        return
    principal = principal_of(request)
    client = request.client
    actor = Actor(principal.name, principal.kind, client.host if client else None, uuid.uuid4())
    act_for(actor)
    # A PUT or a PATCH that changes no row has changed nothing; a POST may have had its effect elsewhere.
    if request.method in {"PUT", "PATCH"} or access_of(request.route_handler).needed == "read":
        return
    body = await request.body() if request.headers.get("content-type", "").startswith("application/json") else b""
    _asked.set(
        _Asked(
            actor,
            request.route_handler.handler_name,
            request.url.path,
            request.path_params.get("org"),
            body if 0 < len(body) <= MAX_BODY_BYTES else None,
        )
    )


def finish_by(database: Database) -> AfterRequest:
    """After a route has done what it was asked to."""

    async def finish(response: Response[Any]) -> Response[Any]:
        asked = _asked.get()
        if asked is None or (response.status_code or 200) >= 400:
            return response
        try:
            await audit.record_request(
                database,
                asked.actor,
                action=asked.action,
                path=asked.path,
                organization_id=asked.organization_id,
                body=asked.body,
            )
        except Unavailable:
            # It is done, and saying otherwise would have it done twice.
            log.exception("audit.lost", actor=asked.actor.name, asked=asked.action, path=asked.path)
        return response

    return finish

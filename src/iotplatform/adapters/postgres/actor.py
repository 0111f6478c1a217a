"""On whose behalf a transaction changes what it changes: told to PostgreSQL, whose triggers write the audit.

Whoever answers a request says so once, and every transaction begun for it carries the name; a change that nobody has
asked for is the system's.
"""

from __future__ import annotations

import uuid
from contextvars import ContextVar
from typing import Any, Final

import msgspec
from sqlalchemy import Connection, event, text
from sqlalchemy.orm import Session

_CLAIM: Final = "SELECT set_config('iotplatform.actor', $1, true)"


class Actor(msgspec.Struct, frozen=True, omit_defaults=True):
    """`address`: from where; `request`: one number for all that a request changes."""

    name: str
    kind: str
    address: str | None = None
    request: uuid.UUID | None = None


_actor: ContextVar[Actor | None] = ContextVar("actor", default=None)


def act_for(actor: Actor | None) -> None:
    """From now on in this task."""
    _actor.set(actor)


def current_actor() -> Actor | None:
    return _actor.get()


async def claim(connection: Any) -> None:
    """For a transaction that does not belong to a session of SQLAlchemy."""
    actor = _actor.get()
    if actor is not None:
        await connection.execute(_CLAIM, msgspec.json.encode(actor).decode())


class ActorSession(Session):
    """A session that says for whom it acts."""


@event.listens_for(ActorSession, "after_begin")
def _claim(_session: Session, _transaction: Any, connection: Connection) -> None:
    actor = _actor.get()
    if actor is not None:
        statement = text(_CLAIM.replace("$1", ":actor"))
        connection.execute(statement, {"actor": msgspec.json.encode(actor).decode()})

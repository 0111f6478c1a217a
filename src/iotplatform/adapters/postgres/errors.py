"""From the drivers' exceptions to ours: a server that is away is nobody's fault, a taken name is the caller's."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import asyncpg
from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError

from iotplatform.errors import Rejected, Unavailable

# By SQLSTATE: a class of two characters, or a whole code. Connection trouble, no resources (disk, memory, connections),
# an operator's intervention (shutdown, restart), a server turned read-only, a session that stood still too long, and
# transactions that lost a race.
_AWAY = ("08", "53", "57P", "25006", "25P03", "40001", "40P01", "55P03")

OVER_QUOTA = "IPQ01"

_FORGOTTEN = "Future exception was never retrieved"
_RESET = "Resetting connection with an active transaction"

_DRIVER_ERRORS = (
    OSError,
    asyncpg.PostgresError,
    asyncpg.InterfaceError,
    asyncpg.InternalClientError,
    DBAPIError,
    PoolTimeoutError,
)


def is_away(error: BaseException) -> bool:
    """Whether trying the same again later can help."""
    if isinstance(error, DBAPIError):
        driver = _driver_error(error)
        return error.connection_invalidated or (driver is not None and is_away(driver))
    if isinstance(error, asyncpg.PostgresError):
        return str(error.sqlstate).startswith(_AWAY)
    # A closed connection or pool is an InterfaceError without a code; so are mistakes in our own code. When the server
    # has just ended the session, asyncpg can't roll back, and raises one on top of what went wrong first.
    if isinstance(error, asyncpg.InterfaceError):
        return "clos" in str(error) or (error.__context__ is not None and is_away(error.__context__))
    # OSError contains ConnectionError and TimeoutError.
    return isinstance(error, (OSError, asyncpg.InternalClientError, PoolTimeoutError))


def is_echo(context: Mapping[str, Any]) -> bool:
    """Whether what an event loop complains of is an error that a caller has been told already.

    A COPY whose connection breaks raises at once, and asyncpg leaves the future of the statement behind: it gets the
    same error, and nobody asks for it. And when the server has ended the session, the rollback fails, and the pool
    finds a transaction open: ours end with their block, so there is no other way to that.
    """
    message = str(context.get("message"))
    if message == _FORGOTTEN:
        return isinstance(context.get("exception"), asyncpg.ConnectionDoesNotExistError)
    return message.startswith(_RESET)


@contextmanager
def translated() -> Iterator[None]:
    """Let errors of a server that is away leave as Unavailable."""
    try:
        yield
    except _DRIVER_ERRORS as error:
        if (detail := _over_quota(error)) is not None:
            raise Rejected("over_quota", detail) from error
        if is_away(error):
            raise Unavailable("the database is not reachable") from error
        raise


def _over_quota(error: Exception) -> str | None:
    """What `check_quota` says, the trigger behind everything that has a quota."""
    driver = _driver_error(error)
    if isinstance(driver, asyncpg.PostgresError) and driver.sqlstate == OVER_QUOTA:
        return str(driver.args[0])
    return None


@contextmanager
def conflict(detail: str, *, constraint: str | None = None) -> Iterator[None]:
    """Let a unique violation (of `constraint`, when given) leave as Rejected with `detail`."""
    try:
        yield
    except (DBAPIError, asyncpg.UniqueViolationError) as error:
        driver = _driver_error(error)
        if isinstance(driver, asyncpg.UniqueViolationError) and constraint in {None, driver.constraint_name}:
            raise Rejected("conflict", detail) from error
        raise


@contextmanager
def missing(detail: str) -> Iterator[None]:
    """Let a foreign key violation leave as Rejected: what the new row belongs to was deleted a moment ago."""
    try:
        yield
    except (DBAPIError, asyncpg.ForeignKeyViolationError) as error:
        if isinstance(_driver_error(error), asyncpg.ForeignKeyViolationError):
            raise Rejected("not_found", detail) from error
        raise


def _driver_error(error: Exception) -> BaseException | None:
    """What asyncpg raised: SQLAlchemy wraps it twice."""
    if isinstance(error, DBAPIError):
        return error.orig.__cause__ if error.orig is not None else None
    return error

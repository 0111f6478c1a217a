"""From the drivers' exceptions to ours: a server that is away is nobody's fault, a taken name is the caller's."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import asyncpg
from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError

from iotplatform.errors import Rejected, Unavailable

# By SQLSTATE: a class of two characters, or a whole code. Connection trouble, no resources (disk, memory, connections),
# an operator's intervention (shutdown, restart), a server turned read-only, and transactions that lost a race.
_AWAY = ("08", "53", "57P", "25006", "40001", "40P01", "55P03")


def is_away(error: BaseException) -> bool:
    """Whether trying the same again later can help."""
    if isinstance(error, DBAPIError):
        driver = error.orig.__cause__ if error.orig is not None else None
        return error.connection_invalidated or (driver is not None and is_away(driver))
    if isinstance(error, asyncpg.PostgresError):
        return str(error.sqlstate).startswith(_AWAY)
    # A connection that was closed under a query, or a pool that is being closed, is an InterfaceError without a code;
    # so are some mistakes in our own code, which are data errors as well.
    if isinstance(error, asyncpg.InterfaceError):
        return not isinstance(error, asyncpg.DataError)
    # OSError contains ConnectionError and TimeoutError.
    return isinstance(error, (OSError, asyncpg.InternalClientError, PoolTimeoutError))


@contextmanager
def translated() -> Iterator[None]:
    """Let errors of a server that is away leave as Unavailable."""
    try:
        yield
    except (OSError, asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError) as error:
        if is_away(error):
            raise Unavailable("the database is not reachable") from error
        raise
    except (DBAPIError, PoolTimeoutError) as error:
        if is_away(error):
            raise Unavailable("the database is not reachable") from error
        raise


@contextmanager
def conflict(detail: str, *, constraint: str | None = None) -> Iterator[None]:
    """Let a unique violation (of `constraint`, when given) leave as Rejected with `detail`."""
    try:
        yield
    except (DBAPIError, asyncpg.UniqueViolationError) as error:
        driver = error.orig.__cause__ if isinstance(error, DBAPIError) and error.orig is not None else error
        if isinstance(driver, asyncpg.UniqueViolationError) and constraint in (None, driver.constraint_name):
            raise Rejected("conflict", detail) from error
        raise

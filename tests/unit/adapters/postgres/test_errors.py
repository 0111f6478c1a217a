from __future__ import annotations

import asyncpg
import pytest

from iotplatform.adapters.postgres.errors import translated
from iotplatform.errors import Unavailable


def fail_on_top_of(first: Exception) -> None:
    """As asyncpg does when a transaction can't be rolled back."""
    try:
        raise first
    finally:
        raise asyncpg.InterfaceError("cannot perform operation: another operation is in progress")


def test_a_session_that_ended_under_a_transaction_is_nobodys_fault() -> None:
    with pytest.raises(Unavailable), translated():
        fail_on_top_of(asyncpg.InternalClientError("cannot switch to state 21; another operation (2) is in progress"))


def test_a_mistake_of_ours_stays_what_it_is() -> None:
    with pytest.raises(asyncpg.InterfaceError), translated():
        raise asyncpg.InterfaceError("cannot perform operation: another operation is in progress")
    with pytest.raises(asyncpg.InterfaceError), translated():
        fail_on_top_of(ValueError("ours"))

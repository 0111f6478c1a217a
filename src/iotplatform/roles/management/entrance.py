"""What lets people and programs in: the checks of credentials and passwords, and the bounds on guessing."""

from __future__ import annotations

import hmac
from typing import Final

import msgspec

from iotplatform.adapters.passwords.hasher import PasswordHasher
from iotplatform.adapters.tokens.authenticator import Authenticator
from iotplatform.adapters.tokens.user_tokens import UserTokens
from iotplatform.domain.credentials import secret_hash
from iotplatform.domain.people import email_fault, password_fault
from iotplatform.errors import Fault, Rejected
from iotplatform.runtime.attempts import Attempts

MANY: Final = 10_000


class Guesses:
    """Three bounds: one address that tries one account, everybody who tries it, and one address that tries any.

    The second is wide: it is what lets strangers keep an account's owner out. They are this process's own.
    """

    def __init__(self) -> None:
        self._by_both = Attempts(5, 30.0, most=MANY)
        self._by_account = Attempts(100, 10.0, most=MANY)
        self._by_address = Attempts(50, 3.0, most=MANY)

    def count(self, account: str, address: str) -> None:
        """Raises:
        Rejected: there were too many (over_quota).
        """
        waits = (
            self._by_address.take(address),
            self._by_both.take(f"{address} {account}"),
            self._by_account.take(account),
        )
        if any(waits):
            raise Rejected("over_quota", "too many attempts: wait before the next one", retry_after_s=max(waits))

    def succeeded(self, account: str, address: str) -> None:
        self._by_both.forget(f"{address} {account}")


class Entrance(msgspec.Struct, frozen=True):
    """`required`: nobody comes in without a credential. `setup_token` makes the first administrator, until there is
    one.
    """

    authenticator: Authenticator
    user_tokens: UserTokens
    passwords: PasswordHasher
    guesses: Guesses
    required: bool = False
    setup_token: str | None = None

    def is_setup_token(self, given: str) -> bool:
        return self.setup_token is not None and hmac.compare_digest(secret_hash(given), secret_hash(self.setup_token))


def check_person(email: str, password: str | None) -> None:
    """Raises:
    Rejected: one of them is not taken.
    """
    faults = []
    if fault := email_fault(email):
        faults.append(Fault(fault, field="email"))
    if password is not None and (fault := password_fault(password, email)):
        faults.append(Fault(fault, field="password"))
    if faults:
        raise Rejected("invalid", "the body is not valid", faults=tuple(faults))

"""What lets people and programs in: the checks of credentials and passwords, and the bounds on guessing."""

from __future__ import annotations

import asyncio
import hmac
from typing import Final

import msgspec
import structlog

from iotplatform.adapters.passwords.hasher import PasswordHasher
from iotplatform.adapters.redis.leases import Ask, TokenLeases
from iotplatform.adapters.tokens.authenticator import Authenticator
from iotplatform.adapters.tokens.user_tokens import UserTokens
from iotplatform.domain.credentials import secret_hash
from iotplatform.domain.limit import Grant, Rate
from iotplatform.domain.people import email_fault, password_fault
from iotplatform.errors import Fault, Rejected, Unavailable
from iotplatform.runtime.attempts import Attempts
from iotplatform.runtime.strangers import Strangers, holder_of

log = structlog.get_logger(role="management")

# How many at once, and one every so many seconds from then on.
Bound = tuple[int, int]
BY_BOTH: Final[Bound] = (5, 30)
BY_ACCOUNT: Final[Bound] = (100, 10)
BY_ADDRESS: Final[Bound] = (50, 3)
MANY: Final = 10_000
REDIS_WITHIN_S: Final = 0.5


class Guesses:
    """Three bounds: one address that tries one account, everybody who tries it, and one address that tries any.

    The second is wide: it is what lets strangers keep an account's owner out. All processes count together, in Redis;
    while that is away, and without it, each for itself.
    """

    def __init__(self, shared: TokenLeases | None = None) -> None:
        self._shared = shared
        self._own = {bound: Attempts(bound[0], bound[1], most=MANY) for bound in (BY_BOTH, BY_ACCOUNT, BY_ADDRESS)}

    async def count(self, account: str, address: str) -> None:
        """Raises:
        Rejected: there were too many (over_quota).
        """
        holder = holder_of(address)
        subjects = {BY_ADDRESS: holder, BY_BOTH: f"{holder} {account}", BY_ACCOUNT: account}
        wait_s = max(self._own[bound].take(subject) for bound, subject in subjects.items())
        # What is refused here already takes nothing from what the others may let in.
        if not wait_s:
            asks = [_ask(bound, subject, want=1) for bound, subject in subjects.items()]
            wait_s = max(grant.wait_s for grant in await self._granted(asks))
        if wait_s:
            raise Rejected("over_quota", "too many attempts: wait before the next one", retry_after_s=wait_s)

    async def succeeded(self, account: str, address: str) -> None:
        subject = f"{holder_of(address)} {account}"
        self._own[BY_BOTH].forget(subject)
        await self._granted([_ask(BY_BOTH, subject, back=BY_BOTH[0])])

    async def _granted(self, asks: list[Ask]) -> list[Grant]:
        if self._shared is None:
            return [Grant(0, 0.0, 1.0)]
        try:
            async with asyncio.timeout(REDIS_WITHIN_S):
                return await self._shared.grant(asks)
        except (Unavailable, TimeoutError) as error:
            log.warning("access.without_redis", detail=str(error) or "no answer in time")
            return [Grant(0, 0.0, 1.0)]


def _ask(bound: Bound, subject: str, want: int = 0, back: int = 0) -> Ask:
    count, every_s = bound
    # By hash: of any length, and no list of addresses.
    name = secret_hash(subject).hex()[:32]
    return Ask(0, f"{count}", name, (Rate(count, count * every_s),), want, want, back)


class Entrance(msgspec.Struct, frozen=True):
    """`required`: nobody comes in without a credential. `setup_token` makes the first administrator, until there is
    one.
    """

    authenticator: Authenticator
    user_tokens: UserTokens
    passwords: PasswordHasher
    guesses: Guesses
    strangers: Strangers = msgspec.field(default_factory=Strangers)
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

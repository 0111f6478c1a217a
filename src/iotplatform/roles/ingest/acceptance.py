"""From what a body holds to what is stored of it: the same for every way in over HTTP."""

from __future__ import annotations

import msgspec

from iotplatform.adapters.nats.subjects import Source
from iotplatform.adapters.postgres.directory import Directory
from iotplatform.adapters.redis.counters import Counters
from iotplatform.domain.organization import Organization
from iotplatform.domain.payloads.admission import MAX_FAULTS, Decoded
from iotplatform.errors import Fault, PlatformError, Rejected, Unavailable
from iotplatform.roles.ingest.admission import Admission
from iotplatform.roles.ingest.asides import Asides
from iotplatform.roles.ingest.idempotency import IdempotencyKey
from iotplatform.roles.ingest.lanes import Lanes
from iotplatform.roles.ingest.registry import Registry


class Wish(msgspec.Struct, frozen=True):
    """How a sender wants its readings handled. `as_json`: its elements are in a shape of JSON.

    `is_anonymous`: it has no credential, and so its devices may be unknown.
    """

    source: Source = "http"
    is_lenient: bool = False
    as_json: bool = True
    key: IdempotencyKey | None = None
    is_anonymous: bool = False


class Acceptance:
    def __init__(
        self,
        lanes: Lanes,
        admission: Admission,
        directory: Directory,
        counters: Counters,
        asides: Asides,
        registry: Registry,
    ) -> None:
        self.lanes = lanes
        self.admission = admission
        self.directory = directory
        self.counters = counters
        self.registry = registry
        self._asides = asides

    async def organization(self, organization_id: str) -> Organization:
        """The organization of a request.

        Raises:
            Rejected: there is none.
        """
        found = await self.directory.organization(organization_id)
        if found is None:
            raise Rejected("not_found", f"there is no organization {organization_id!r}")
        return found

    async def accept(self, decoded: Decoded, arrived_at: int, wish: Wish) -> tuple[Fault, ...]:
        """Returns when everything good is stored, and everything bad in a letter; gives what was wrong with that.

        Letters come last, because a request that is refused leaves nothing behind.

        Raises:
            Rejected: something is bad and the sender is not lenient, or the organization is unknown or can't take it.
            Unavailable: a server is away; `outcome_unknown` as well when only the letters are not stored.
        """
        if not wish.is_lenient:
            decoded.require_all()
        if decoded.organization_id is None:
            decoded.require_all()
            raise AssertionError("what is good names an organization")
        organization = await self.organization(decoded.organization_id)
        await self._admit(organization, decoded)
        if decoded.readings:
            await self._store(organization, decoded, arrived_at, wish)
        if decoded.bad:
            await self._set_aside(organization, decoded, arrived_at, wish)
            self.counters.add(organization.epoch, "refused", len(decoded.bad))
        return tuple(fault for bad in decoded.bad for fault in bad.faults)[:MAX_FAULTS]

    async def _set_aside(self, organization: Organization, decoded: Decoded, arrived_at: int, wish: Wish) -> None:
        name = None if wish.key is None else wish.key.part(organization.epoch, 0).message_id
        try:
            await self._asides.set_aside(organization, decoded.bad, arrived_at, as_json=wish.as_json, name=name)
        except Unavailable as error:
            stored = "the good readings are stored; " if decoded.readings else ""
            detail = f"{stored}whether the bad ones are set aside is unknown: {error.detail}"
            raise Unavailable(detail, retry_after_s=error.retry_after_s, outcome_unknown=True) from error

    async def store(self, organization: Organization, decoded: Decoded, arrived_at: int, wish: Wish) -> None:
        """What is good, whatever else is in it.

        Raises:
            Rejected, Unavailable: it is not stored.
        """
        await self._admit(organization, decoded)
        await self._store(organization, decoded, arrived_at, wish)

    async def _admit(self, organization: Organization, decoded: Decoded) -> None:
        if self.admission.limited:
            await self.admission.take(organization, decoded.readings)

    async def _store(self, organization: Organization, decoded: Decoded, arrived_at: int, wish: Wish) -> None:
        await self.lanes.store(organization, wish.source, decoded.readings, arrived_at, key=wish.key)
        self.registry.learn(organization, decoded, is_anonymous=wish.is_anonymous)

    async def count_refused(self, organization_id: str | None, readings: int, error: PlatformError) -> None:
        """For the ledger's column of what the door refused, where the organization can be told."""
        if organization_id is None or (isinstance(error, Unavailable) and error.outcome_unknown):
            return
        try:
            organization = await self.directory.organization(organization_id)
        except Unavailable:
            return
        if organization is not None:
            self.counters.add(organization.epoch, "refused", readings)

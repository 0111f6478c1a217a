"""What a process knows of organizations, rules, channels and credentials: cached, and kept right by the change feed.

While PostgreSQL is away, what is cached goes on being answered; what isn't raises Unavailable.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any, Final

import asyncpg
import msgspec

from iotplatform.adapters.postgres.changes import EVERYTHING, Change
from iotplatform.adapters.postgres.connection import Database
from iotplatform.adapters.postgres.credentials import Credentials
from iotplatform.adapters.postgres.errors import translated
from iotplatform.adapters.postgres.misses import MISS_KEPT_S, Misses
from iotplatform.domain.channel import Channel
from iotplatform.domain.identifiers import identifier_fault
from iotplatform.domain.mappings.extraction import Extraction
from iotplatform.domain.mappings.mapping import Mapping
from iotplatform.domain.organization import Organization
from iotplatform.domain.rule import Rule
from iotplatform.domain.timestamps import to_microseconds

_ORGANIZATIONS: Final = "SELECT id, epoch, name, partitions, created_at FROM organizations"
_RULES: Final = "SELECT definition FROM rules WHERE epoch = $1 ORDER BY id"
_TAGS: Final = "SELECT id, tags FROM devices WHERE epoch = $1 AND cardinality(tags) > 0"
_CHANNELS: Final = "SELECT id, name, type, enabled, severities, config FROM channels WHERE epoch = $1 ORDER BY id"
_MAPPINGS: Final = "SELECT definition FROM mappings WHERE epoch = $1 ORDER BY id"
_KEYS: Final = "SELECT kid, public_pem FROM signing_keys"

_rule_decoder = msgspec.json.Decoder(Rule)
_mapping_decoder = msgspec.json.Decoder(Mapping)


class Directory:
    def __init__(self, database: Database) -> None:
        self.credentials = Credentials(database)
        self._pool = database.pool
        self._organizations: dict[str, Organization] = {}
        self._unknown_organizations = Misses()
        self._rules: dict[int, list[Rule]] = {}
        self._tags: dict[int, dict[str, frozenset[str]]] = {}
        self._last_tags: dict[int, dict[str, frozenset[str]]] = {}
        self._channels: dict[int, list[Channel]] = {}
        self._mappings: dict[int, Extraction] = {}
        self._of_organizations: dict[str, dict[int, Any]] = {
            "rule": self._rules,
            "device": self._tags,
            "channel": self._channels,
            "mapping": self._mappings,
        }
        self._keys: dict[str, str] = {}
        self._keys_again_at = 0.0
        self._callbacks: list[Callable[[], None]] = []
        # A query that was under way when a change arrived may have seen what was before it, so its result is used
        # once and not kept.
        self._generation = 0
        self._refreshing = asyncio.Lock()

    @property
    def generation(self) -> int:
        """Another one as soon as anything may have changed."""
        return self._generation

    def on_organizations(self, callback: Callable[[], None]) -> None:
        """`callback` is called whenever the set of known organizations has changed."""
        self._callbacks.append(callback)

    def organizations(self) -> list[Organization]:
        return list(self._organizations.values())

    def known_organization(self, organization_id: str) -> Organization | None:
        """Without a look-up: None says nothing."""
        return self._organizations.get(organization_id)

    async def organization(self, organization_id: str) -> Organization | None:
        known = self._organizations.get(organization_id)
        if known is not None or organization_id in self._unknown_organizations or identifier_fault(organization_id):
            return known
        generation = self._generation
        with translated():
            row = await self._pool.fetchrow(f"{_ORGANIZATIONS} WHERE id = $1", organization_id)
        found = None if row is None else _organization(row)
        if generation == self._generation:
            if found is None:
                self._unknown_organizations.add(organization_id)
            else:
                self._replace({**self._organizations, organization_id: found})
        return found

    async def load(self) -> None:
        """Learn all organizations."""
        async with self._refreshing:
            with translated():
                rows = await self._pool.fetch(_ORGANIZATIONS)
            self._replace({row["id"]: _organization(row) for row in rows})

    async def rules(self, epoch: int) -> list[Rule]:
        known = self._rules.get(epoch)
        if known is not None:
            return known
        generation = self._generation
        with translated():
            rows = await self._pool.fetch(_RULES, epoch)
        found = [_rule_decoder.decode(row["definition"]) for row in rows]
        if generation == self._generation:
            self._rules[epoch] = found
        return found

    async def device_tags(self, epoch: int) -> dict[str, frozenset[str]]:
        """Of the organization's devices that have any."""
        known = self._tags.get(epoch)
        if known is not None:
            return known
        generation = self._generation
        with translated():
            rows = await self._pool.fetch(_TAGS, epoch)
        found = {row["id"]: frozenset(row["tags"]) for row in rows}
        # Devices change often, and their tags hardly ever: who goes by them need not do so anew.
        if found == (before := self._last_tags.get(epoch)):
            found = before
        if generation == self._generation:
            self._tags[epoch] = self._last_tags[epoch] = found
        return found

    async def channels(self, epoch: int) -> list[Channel]:
        known = self._channels.get(epoch)
        if known is not None:
            return known
        generation = self._generation
        with translated():
            rows = await self._pool.fetch(_CHANNELS, epoch)
        found = [msgspec.convert({**dict(row), "config": msgspec.json.decode(row["config"])}, Channel) for row in rows]
        if generation == self._generation:
            self._channels[epoch] = found
        return found

    def known_mappings(self, epoch: int) -> Extraction | None:
        """Without a look-up: None says nothing."""
        return self._mappings.get(epoch)

    async def mappings(self, epoch: int) -> Extraction:
        """What the messages of gateways say, by the organization's mappings."""
        known = self._mappings.get(epoch)
        if known is not None:
            return known
        generation = self._generation
        with translated():
            rows = await self._pool.fetch(_MAPPINGS, epoch)
        found = Extraction([_mapping_decoder.decode(row["definition"]) for row in rows])
        if generation == self._generation:
            self._mappings[epoch] = found
        return found

    async def token_is_live(self, token_id: str) -> bool:
        """Whether the token is neither revoked nor gone with its device; its expiry is the verifier's affair."""
        return await self.credentials.device_token(token_id) is not None

    def known_key(self, kid: str) -> str | None:
        """Without a look-up: None says nothing."""
        return self._keys.get(kid)

    async def public_key(self, kid: str) -> str | None:
        """The public key in PEM. Key ids come from strangers, so unknown ones cost one query a second all together."""
        if kid not in self._keys and time.monotonic() >= self._keys_again_at:
            generation = self._generation
            with translated():
                rows = await self._pool.fetch(_KEYS)
            found = {row["kid"]: row["public_pem"] for row in rows}
            if generation != self._generation:
                return found.get(kid)
            self._keys = found
            self._keys_again_at = time.monotonic() + MISS_KEPT_S
        return self._keys.get(kid)

    async def apply(self, changes: list[Change]) -> None:
        """What the change feed calls.

        Raises:
            Unavailable: call again with the same changes.
        """
        self._generation += 1
        if EVERYTHING in changes:
            self._forget()
            await self.load()
            return
        self.credentials.apply(changes)
        organizations: set[str] = set()
        for change in changes:
            match change.kind:
                case "organization":
                    organizations.add(change.key)
                case "rule" | "device" | "channel" | "mapping" as kind if change.epoch is not None:
                    self._of_organizations[kind].pop(change.epoch, None)
                case "signing_key":
                    self._keys = {}
                    self._keys_again_at = 0.0
                case _:
                    pass
        if organizations:
            await self._refresh(organizations)

    async def _refresh(self, organization_ids: set[str]) -> None:
        # One at a time: of two, the one that read first must not write last.
        async with self._refreshing:
            with translated():
                rows = await self._pool.fetch(f"{_ORGANIZATIONS} WHERE id = ANY($1)", list(organization_ids))
            found = {row["id"]: _organization(row) for row in rows}
            kept = {key: known for key, known in self._organizations.items() if key not in organization_ids}
            for organization_id in organization_ids:
                self._unknown_organizations.drop(organization_id)
            self._replace({**kept, **found})

    def _replace(self, organizations: dict[str, Organization]) -> None:
        before = {known.epoch for known in self._organizations.values()}
        after = {known.epoch for known in organizations.values()}
        self._organizations = organizations
        for epoch in before - after:
            self._rules.pop(epoch, None)
            self._tags.pop(epoch, None)
            self._last_tags.pop(epoch, None)
            self._channels.pop(epoch, None)
            self._mappings.pop(epoch, None)
        if before != after:
            self._generation += 1
            for callback in self._callbacks:
                callback()

    def _forget(self) -> None:
        self._unknown_organizations.clear()
        self._rules.clear()
        self._tags.clear()
        self._channels.clear()
        self.credentials.forget()
        self._mappings.clear()
        self._keys = {}
        self._keys_again_at = 0.0


def _organization(row: asyncpg.Record) -> Organization:
    return Organization(row["id"], row["epoch"], row["name"], row["partitions"], to_microseconds(row["created_at"]))

"""Whom a header speaks for, as a connection remembers it: never longer than the credential lives, and never much."""

from __future__ import annotations

from typing import Any

import pytest

from iotplatform.domain.credentials import DeviceCredential
from iotplatform.domain.organization import Organization
from iotplatform.domain.payloads.admission import Sender
from iotplatform.errors import Rejected
from iotplatform.roles.ingest.senders import MAX_RECENT, MAX_RECENT_BYTES, TOKEN, Recent, Senders
from iotplatform.runtime.strangers import Strangers

EXPIRES_AT = 2_000_000_000
SENDER = Sender("acme", "pump")


class Known:
    """In place of the directory, its credentials and the authenticator: tokens are the ids of what they stand for."""

    def __init__(self) -> None:
        self.credentials = self
        self.generation = 1
        self.epoch = 7
        self.live = {f"t{number}" for number in range(100)}
        self.keys = {"kid"}
        self.looked_up = 0

    def known_organization(self, organization_id: str) -> Organization | None:
        self.looked_up += 1
        return Organization(organization_id, self.epoch, "Acme", 1, 0)

    async def organization(self, organization_id: str) -> Organization | None:
        return self.known_organization(organization_id)

    def known_device(self, token_id: str) -> str | None:
        return token_id if token_id in self.live else None

    def known_key(self, kid: str) -> str | None:
        return kid if kid in self.keys else None

    async def device(self, token: str) -> DeviceCredential:
        if token not in self.live:
            raise Rejected("unauthenticated", "the token was revoked")
        return DeviceCredential(token, 7, "acme", "pump", EXPIRES_AT * 1_000_000, "kid")


class Clock:
    now = 1_900_000_000.0

    def __call__(self) -> float:
        return self.now


class Stage:
    def __init__(self) -> None:
        self.known = Known()
        self.clock = Clock()
        stub: Any = self.known
        self.senders = Senders(stub, stub, required=True, now_s=self.clock)
        self.recent: Recent = {}

    async def come(self, header: bytes) -> Sender | None:
        """Once the ordinary way, and then over the connection."""
        assert await self.senders.find(header) == SENDER
        return self.senders.recent(header, self.recent)


@pytest.fixture
def stage() -> Stage:
    return Stage()


async def test_who_has_come_before_costs_one_look(stage: Stage) -> None:
    assert stage.senders.recent(b"Bearer t1", stage.recent) is None
    assert await stage.come(b"Bearer t1") == SENDER
    looked_up = stage.known.looked_up
    assert [stage.senders.recent(b"Bearer t1", stage.recent) for _ in range(5)] == [SENDER] * 5
    assert stage.known.looked_up == looked_up
    # Another change than one of this credential has it looked at once more.
    stage.known.generation += 1
    assert stage.senders.recent(b"Bearer t1", stage.recent) == SENDER
    assert stage.known.looked_up == looked_up + 1


@pytest.mark.parametrize("change", ["revoked", "key withdrawn", "organization made again", "expired"])
async def test_nobody_is_remembered_longer_than_their_credential_lives(stage: Stage, change: str) -> None:
    assert await stage.come(b"Bearer t1") == SENDER
    known = stage.known
    match change:
        case "revoked":
            known.live.discard("t1")
        case "key withdrawn":
            known.keys.clear()
        case "organization made again":
            known.epoch = 8
        case _:
            stage.clock.now = EXPIRES_AT
    if change != "expired":
        known.generation += 1
    assert stage.senders.recent(b"Bearer t1", stage.recent) is None
    assert stage.recent == {}


async def test_a_connection_remembers_a_few_and_each_is_still_itself(stage: Stage) -> None:
    for number in range(100):
        assert await stage.come(b"Bearer t%d" % number) == SENDER
        assert len(stage.recent) <= MAX_RECENT
    stage.known.live.discard("t99")
    stage.known.generation += 1
    assert stage.senders.recent(b"Bearer t99", stage.recent) is None
    assert stage.senders.recent(b"Bearer t98", stage.recent) == SENDER


async def test_a_header_full_of_blanks_is_taken_and_not_kept(stage: Stage) -> None:
    padded = b"Bearer" + b" " * MAX_RECENT_BYTES + b"t1"
    assert await stage.come(padded) == SENDER
    assert stage.recent == {}


async def test_who_came_in_before_is_not_put_off_with_a_guesser() -> None:
    """By the word of InfluxDB's clients too, which is looked at anew each time."""
    stub: Any = Known()
    senders = Senders(stub, stub, required=True, strangers=Strangers(1, 1_000.0), now_s=Clock())
    assert await senders.find(b"Token t1", TOKEN, "192.0.2.7") == SENDER
    outcomes = []
    for guess in (b"Token g1", b"Token g2", b"Token t2"):
        with pytest.raises(Rejected) as refused:
            await senders.find(guess, TOKEN, "192.0.2.7")
        outcomes.append(refused.value.kind)
    assert outcomes == ["unauthenticated", "over_quota", "over_quota"]
    assert await senders.find(b"Token t1", TOKEN, "192.0.2.7") == SENDER

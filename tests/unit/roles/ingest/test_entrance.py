from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from iotplatform.adapters.nats.callout import Caller
from iotplatform.adapters.tokens.verifier import DeviceClaims
from iotplatform.errors import Rejected
from iotplatform.roles.ingest.entrance import Entrance, Sign
from iotplatform.runtime.strangers import Strangers

CLAIMS = DeviceClaims("acme", "pump", "token-1", 2_000_000_000_000_000, "kid-1")


async def verify(token):
    if token != "good":
        raise Rejected("unauthenticated", "the token does not hold")
    return CLAIMS


async def account_of(organization_id):
    return f"DEVICES_of_{organization_id}"


def entrance(*, is_open, connections=0):
    return Entrance(verify, account_of, lambda _: connections, Strangers(), is_open=is_open)


def mqtt(client_id, password="good"):
    return Caller("mqtt", client_id, "anything", password)


@pytest.mark.parametrize("client_id", ["acme:pump", "acme:pump:2", "acme:pump:", "A" * 22, "0123456789abcdefABCDEF"])
async def test_a_device_gets_its_own_topics_and_nothing_else(client_id):
    grant = await entrance(is_open=False).decide(mqtt(client_id))
    assert (grant.account, grant.publish, grant.subscribe) == (
        "PLATFORM",
        ("iot.acme.pump", "iot.acme.pump.>"),
        ("iot.acme.pump", "iot.acme.pump.>"),
    )
    assert grant.expires_at_s == 2_000_000_000
    assert Sign.parse(grant.name) == Sign("acme", "pump", "token-1", "kid-1")


@given(st.text(max_size=40))
async def test_no_other_client_id_is_taken(client_id):
    is_own = client_id == "acme:pump" or client_id.startswith("acme:pump:")
    is_given = len(client_id) == 22 and client_id.isascii() and client_id.isalnum()
    if is_own or is_given:
        return
    with pytest.raises(Rejected, match="client id"):
        await entrance(is_open=True).decide(mqtt(client_id))


async def test_a_device_of_nats_reaches_the_door_its_commands_and_its_replies():
    grant = await entrance(is_open=False).decide(Caller("nats", "", "pump", "good"))
    assert grant.account == "DEVICES_of_acme"
    assert grant.publish == ("intake.acme.pump", "iot.acme.pump.replies.*")
    assert grant.subscribe == ("_INBOX.>", "inbox.acme.pump.>", "iot.acme.pump.commands.*")


@pytest.mark.parametrize("protocol", ["mqtt", "nats"])
async def test_a_token_opens_so_many_connections_and_no_more(protocol):
    caller = Caller(protocol, "acme:pump", "", "good")
    assert await entrance(is_open=False, connections=31).decide(caller)
    with pytest.raises(Rejected, match="32 connections"):
        await entrance(is_open=False, connections=32).decide(caller)


@pytest.mark.parametrize("password", ["good", ""])
async def test_a_client_id_has_an_end(password):
    longest = f"acme:pump:{'x' * 246}"
    assert await entrance(is_open=True).decide(mqtt(longest, password))
    with pytest.raises(Rejected, match="longer than 256"):
        await entrance(is_open=True).decide(mqtt(longest + "x", password))


@pytest.mark.parametrize("is_open", [True, False])
async def test_a_bad_token_is_refused_in_open_mode_too(is_open):
    with pytest.raises(Rejected, match="does not hold"):
        await entrance(is_open=is_open).decide(mqtt("acme:pump", "bad"))


async def test_without_a_password_only_open_mode_lets_anybody_in():
    with pytest.raises(Rejected, match="token"):
        await entrance(is_open=False).decide(mqtt("acme:pump", ""))
    for protocol in ("mqtt", "nats"):
        grant = await entrance(is_open=True).decide(Caller(protocol, "acme:pump", "", ""))
        assert not any(allowed in {">", "$JS.>", "readings.>"} for allowed in grant.publish + grant.subscribe)
        assert grant.expires_at_s is None


@given(st.text(max_size=60) | st.lists(st.sampled_from(["iot", "a", "", " "]), max_size=7).map(" ".join))
def test_any_name_of_a_connection_is_parsed_or_is_nobodys(name):
    sign = Sign.parse(name)
    assert sign is None or str(sign) == name


@pytest.mark.parametrize("sign", [Sign(), Sign("a", "b"), Sign("a", "b", "c"), Sign("a", "b", "c", "d")])
def test_whose_it_is_is_read_back(sign):
    assert Sign.parse(str(sign)) == sign


class Guessing:
    """An attacker behind the same address as the devices `good-…`, and a clock that is turned by hand."""

    def __init__(self):
        self.now = 0.0
        self.looked_at = []
        strangers = Strangers(burst=10, every_s=1.0, now=lambda: self.now)
        self.entrance = Entrance(self.verify, account_of, lambda _: 0, strangers, is_open=True)

    async def verify(self, token):
        self.looked_at.append(token)
        if not token.startswith("good"):
            raise Rejected("unauthenticated", "the token does not hold")
        return CLAIMS

    async def outcome(self, password, address="192.0.2.7", protocol="mqtt"):
        try:
            await self.entrance.decide(Caller(protocol, "acme:pump", "", password, address))
        except Rejected as error:
            return error.kind
        return "in"


@pytest.mark.parametrize("protocol", ["mqtt", "nats"])
async def test_guesses_from_an_address_are_bounded(protocol):
    stage = Guessing()
    outcomes = [await stage.outcome(f"guess-{number}", protocol=protocol) for number in range(50)]
    assert outcomes == ["unauthenticated"] * 10 + ["over_quota"] * 40
    assert len(stage.looked_at) == 10
    stage.now += 3
    outcomes = [await stage.outcome(f"later-{number}", protocol=protocol) for number in range(50)]
    assert outcomes == ["unauthenticated"] * 3 + ["over_quota"] * 47
    assert await stage.outcome("guess", "192.0.2.8") == "unauthenticated"


async def test_guesses_shut_out_nobody_who_was_let_in_and_nobody_for_long():
    stage = Guessing()
    assert await stage.outcome("good-1") == "in"
    for number in range(50):
        await stage.outcome(f"guess-{number}")
    assert await stage.outcome("good-1") == "in"
    assert await stage.outcome("good-2") == "over_quota"
    assert await stage.outcome("good-2", "192.0.2.8") == "in"
    # Known from there, it may come from here.
    assert await stage.outcome("good-2") == "in"
    stage.now += 1
    assert await stage.outcome("good-3") == "in"


async def test_one_old_token_that_is_tried_again_and_again_keeps_nobody_out():
    stage = Guessing()
    assert [await stage.outcome("old") for _ in range(100)] == ["unauthenticated"] * 100
    assert await stage.outcome("good-1") == "in"

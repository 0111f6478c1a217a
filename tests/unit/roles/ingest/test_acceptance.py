"""What a lenient request leaves behind, whatever becomes of it."""

from __future__ import annotations

import pytest

from iotplatform.domain.organization import Organization
from iotplatform.domain.payloads.admission import Bad, Decoded
from iotplatform.domain.reading import Reading
from iotplatform.errors import Fault, Rejected, Unavailable
from iotplatform.roles.ingest.acceptance import Acceptance, Wish
from iotplatform.roles.ingest.asides import Asides

ACME = Organization("acme", 7, "A Corp", 1, 0)
FULL = Rejected("over_quota", "the stream is full", retry_after_s=5)
AWAY = Unavailable("no acknowledgement in time", outcome_unknown=True)


class Stage:
    """All that an acceptance stands on, in the order in which it was used."""

    limited = True
    lanes = admission = directory = counters = registry = dead_letters = property(lambda self: self)

    def __init__(self):
        self.done = []
        self.refused = 0
        self.faults = {}

    def _do(self, what):
        if what in self.faults:
            raise self.faults[what]
        self.done.append(what)

    async def organization(self, organization_id):
        return ACME if organization_id == ACME.id else None

    async def take(self, organization, readings):
        self._do("admitted")

    async def store(self, organization, source, readings, arrived_at, *, key=None):
        self._do("stored")

    async def put(self, organization_id, epoch, role, letter):
        self._do("letter")

    def learn(self, organization, decoded, *, is_anonymous):
        pass

    def add(self, epoch, column, count):
        self.refused += count

    async def accept(self, readings=1):
        acceptance = Acceptance(self, self, self, self, Asides(self), self)
        decoded = Decoded("acme", [Reading("pump", "temp1", 1.0, 1)] * readings)
        decoded.bad = [Bad((Fault("must be a number", field="temp1"),), {"temp1": None})]
        return await acceptance.accept(decoded, 5, Wish(is_lenient=True))


async def test_the_good_are_stored_before_the_bad_are_set_aside():
    stage = Stage()
    (fault,) = await stage.accept()
    assert fault.field == "temp1"
    assert (stage.done, stage.refused) == (["admitted", "stored", "letter"], 1)


@pytest.mark.parametrize("step", ["admitted", "stored"])
@pytest.mark.parametrize("error", [FULL, AWAY], ids=["429", "503"])
async def test_of_a_request_that_is_refused_nothing_is_set_aside(step, error):
    stage = Stage()
    stage.faults[step] = error
    with pytest.raises(type(error)) as raised:
        await stage.accept()
    assert raised.value is error
    assert "letter" not in stage.done
    assert stage.refused == 0


@pytest.mark.parametrize(("readings", "told"), [(1, "the good readings are stored"), (0, "whether the bad ones")])
async def test_letters_that_can_not_be_stored_leave_the_outcome_unknown(readings, told):
    stage = Stage()
    stage.faults["letter"] = Unavailable("the stream is away", retry_after_s=5)
    with pytest.raises(Unavailable, match=told) as raised:
        await stage.accept(readings)
    assert (raised.value.outcome_unknown, raised.value.retry_after_s) == (True, 5)
    assert ("stored" in stage.done) is bool(readings)
